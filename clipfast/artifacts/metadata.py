"""What an exported file says about itself: one versioned JSON text, the same in every format.

Written by whoever exports and read by whoever serves, without torch.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import reprlib
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any, Literal, get_args

from .._version import __version__
from ..config import CounterattackConfig
from ..errors import ArtifactError, InputError
from ..preprocess import Preprocess
from .ports import OutputName, PixelType, Port, Profile, ports, usual_outputs

__all__ = ["KEY", "LIMITS", "SCHEMA", "Metadata", "Precision"]

Precision = Literal["fp32", "fp16"]

# The name under which a file keeps the text; TorchScript's extra file has .json behind it.
KEY = "clipfast"

SCHEMA = 4

_SINCE_4 = {"outputs", "width"}
_SINCE_3 = {"gate_noise", "transform", "objective", "views", "view_weights"}
_CONFIG = {field.name for field in dataclasses.fields(CounterattackConfig)}
_OLDER = _CONFIG - _SINCE_3
# The fields of `config` in each schema that is read.
_CONFIGS = {1: _OLDER - {"momentum", "gate"}, 2: _OLDER | {"radius"}, 3: _CONFIG, SCHEMA: _CONFIG}

LIMITS = (
    "A test-time defence is not a certified one: adaptive attackers who know "
    "it take back part or all of what it wins. The gate's threshold belongs to the model that it was "
    "calibrated for. What a gate measures is a statistic, not an attack detector. A countered image can "
    "cost several times another. See SECURITY.md of clipfast."
)

# How pixels are laid out, whatever the model: written for readers other than clipfast.
_PIXELS = {"color_order": "RGB", "range": [0, 1]}


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """All that an exported classifier's file says about itself.

    profile, static, batch, pixels, outputs, width: see `clipfast.artifacts.ports.ports`.
    model_name, pretrained: open_clip's names, where the model has one. weights_sha256: the image tower's
    `clipfast.models.fingerprint`; drift_weights_sha256: that of the tower that measures drift where it is
    another one. calibrated: whether config.tau_threshold was calibrated for it; calibration: the figures of
    that calibration. preprocess: from image files to pixels. precision: of the large products' operands.
    versions: of what it was exported with, "clipfast" and "torch" among them. limits: what the defence is
    not good for, in words. license: of the weights.
    """

    profile: Profile
    static: bool
    batch: int | None
    pixels: PixelType
    outputs: tuple[OutputName, ...]
    width: int | None
    model_name: str | None
    pretrained: str | None
    weights_sha256: str
    drift_weights_sha256: str | None
    classnames: tuple[str, ...]
    templates: tuple[str, ...]
    config: CounterattackConfig
    calibrated: bool
    calibration: dict[str, float] | None
    preprocess: Preprocess
    precision: Precision
    versions: dict[str, str]
    limits: str = LIMITS
    license: str

    @property
    def ports(self) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
        """The inputs and the outputs of the file, in order."""
        return ports(
            profile=self.profile,
            static=self.static,
            batch=self.batch,
            pixels=self.pixels,
            image_size=self.preprocess.size,
            classes=len(self.classnames),
            outputs=self.outputs,
            width=self.width,
        )

    def to_json(self) -> str:
        """The JSON text; `from_json` gives equal metadata back."""
        values = {"schema": SCHEMA, **dataclasses.asdict(self)}
        values["preprocess"] |= _PIXELS
        return json.dumps(values, indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Metadata:
        """Reads what `to_json` wrote, in this version or an older one: settings that it lacks are defaults.

        Raises ArtifactError for anything else: no JSON, a newer schema, and fields that are missing, unknown,
        of another type or value, or that contradict each other; the message names the field.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"its metadata is no JSON: {error}") from error
        if not isinstance(values, dict):
            raise ArtifactError(f"its metadata is no JSON object, but {reprlib.repr(values)}")
        schema = values.pop("schema", None)
        _check_schema(schema)
        if schema < 4 and _SINCE_4.isdisjoint(values):
            values |= {"outputs": list(usual_outputs(values.get("profile", "serving"))), "width": None}
        _check_fields(values, _FIELDS)
        _check_fields(values["preprocess"], _PREPROCESS, "preprocess.")
        _check_keys(values["config"], _CONFIGS[schema], "config.")
        config = _made(CounterattackConfig.from_settings, "config", {"settings": values["config"]})
        settings = {name: value for name, value in values["preprocess"].items() if name not in _PIXELS}
        settings["size"] = tuple(settings["size"])
        preprocess = _made(Preprocess, "preprocess", settings)
        names = {name: tuple(values[name]) for name in ("classnames", "templates", "outputs")}
        metadata = cls(**{**values, **names, "config": config, "preprocess": preprocess})
        _check_agreement(metadata)
        return metadata


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return (_is_integer(value) or isinstance(value, float)) and math.isfinite(value)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def _is_name(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _one_of(*known: str) -> tuple[str, Callable[[Any], bool]]:
    return " or ".join(map(repr, known)), lambda value: value in known


# What each field must be, in words and as a test of the parsed JSON value.
_TEXT = ("a string", lambda value: isinstance(value, str))
_FLAG = ("true or false", lambda value: isinstance(value, bool))
_OBJECT = ("an object", lambda value: isinstance(value, dict))
_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "profile": _one_of(*get_args(Profile)),
    "static": _FLAG,
    "batch": ("a positive integer or null", lambda v: v is None or (_is_integer(v) and v > 0)),
    "pixels": _one_of(*get_args(PixelType)),
    "outputs": ("a list of one string or more", _is_texts),
    "width": ("a positive integer or null", lambda v: v is None or (_is_integer(v) and v > 0)),
    "model_name": ("a string or null", _is_name),
    "pretrained": ("a string or null", _is_name),
    "weights_sha256": ("64 hexadecimal digits", _is_digest),
    "drift_weights_sha256": ("64 hexadecimal digits or null", lambda v: v is None or _is_digest(v)),
    "classnames": ("a list of one string or more", _is_texts),
    "templates": ("a list of one string or more", _is_texts),
    "config": _OBJECT,
    "calibrated": _FLAG,
    "calibration": (
        "an object of finite numbers or null",
        lambda v: v is None or (isinstance(v, dict) and all(map(_is_number, v.values()))),
    ),
    "preprocess": _OBJECT,
    "precision": _one_of(*get_args(Precision)),
    "versions": (
        "an object of strings with 'clipfast' and 'torch'",
        lambda v: isinstance(v, dict) and {"clipfast", "torch"} <= set(v) and _is_texts([*v.values()]),
    ),
    "limits": _TEXT,
    "license": _TEXT,
}
_PREPROCESS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "size": (
        "a list of two positive integers",
        lambda v: isinstance(v, list) and len(v) == 2 and all(_is_integer(side) and side > 0 for side in v),
    ),
    "interpolation": _TEXT,
    "resize_mode": _TEXT,
    "fill_color": ("an integer from 0 to 255", lambda v: _is_integer(v) and 0 <= v <= 255),
    **{name: (repr(only), lambda v, only=only: v == only) for name, only in _PIXELS.items()},
}


def _check_schema(schema: Any) -> None:
    if not _is_integer(schema):
        raise ArtifactError(f"expected an integer as metadata field 'schema', got {reprlib.repr(schema)}")
    if schema > SCHEMA:
        raise ArtifactError(
            f"its metadata has schema {schema}, clipfast {__version__} reads up to {SCHEMA}: "
            "a newer clipfast is needed"
        )
    if schema not in _CONFIGS:
        raise ArtifactError(
            f"its metadata has schema {schema}, clipfast {__version__} reads {tuple(_CONFIGS)}"
        )


def _check_keys(values: dict[str, Any], known: Set[str], prefix: str = "") -> None:
    if missing := sorted(known - set(values)):
        raise ArtifactError(f"metadata field '{prefix}{missing[0]}' is missing")
    if unknown := sorted(set(values) - known):
        raise ArtifactError(f"unknown metadata field '{prefix}{unknown[0]}'")


def _check_fields(
    values: dict[str, Any], fields: dict[str, tuple[str, Callable[[Any], bool]]], prefix: str = ""
) -> None:
    _check_keys(values, fields.keys(), prefix)
    for name, (expected, is_so) in fields.items():
        if not is_so(values[name]):
            got = reprlib.repr(values[name])
            raise ArtifactError(f"expected {expected} as metadata field '{prefix}{name}', got {got}")


def _made(kind: Callable[..., Any], name: str, settings: dict[str, Any]) -> Any:
    try:
        return kind(**settings)
    except (InputError, OverflowError) as error:
        raise ArtifactError(f"metadata field '{name}': {error}") from error


def _check_agreement(metadata: Metadata) -> None:
    try:
        _ = metadata.ports
    except InputError as error:
        raise ArtifactError(f"metadata fields do not go together: {error}") from error
    measured_by = metadata.drift_weights_sha256 or metadata.weights_sha256
    marked = metadata.config.calibrated_for is not None
    if metadata.calibrated and marked and not metadata.config.is_calibrated(measured_by):
        raise ArtifactError(
            "metadata field 'calibrated' is true, but 'config' is marked as calibrated for other weights, "
            "threshold, gate, eps or norm"
        )
