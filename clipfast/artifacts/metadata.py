"""The metadata of an exported classifier: one versioned JSON text, the same in every format.

The exporter writes it, and whoever serves the file reads it. Needs no torch.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import get_args

from ..config import PUBLISHED_FOR, CounterattackConfig
from ..errors import ArtifactError, InputError
from ..inputs.names import check_classnames, check_template
from ..preprocess import Preprocess
from .fields import (
    COMMON,
    DIGEST,
    FLAG,
    OBJECT,
    SIZE,
    TEXT,
    TEXTS,
    Field,
    Precision,
    check_fields,
    check_keys,
    check_schema,
    is_number,
    made,
    one_of,
    read_object,
    read_preprocess,
    written_preprocess,
)
from .ports import OutputName, PixelType, Port, Profile, ports, usual_outputs

__all__ = ["LIMITS", "SCHEMA", "Metadata"]

SCHEMA = 5

_SINCE_5 = {"gate_depth", "gate_tokens", "early_threshold"}
_SINCE_4 = {"outputs", "width"}
_SINCE_3 = {"gate_noise", "transform", "objective", "views", "view_weights"}
_CONFIG = {field.name for field in dataclasses.fields(CounterattackConfig)}
_BEFORE_5 = _CONFIG - _SINCE_5
_OLDER = _BEFORE_5 - _SINCE_3
# The fields of `config` in each schema that can be read.
_CONFIGS = {
    1: _OLDER - {"momentum", "gate"},
    2: _OLDER | {"radius"},
    3: _BEFORE_5,
    4: _BEFORE_5,
    SCHEMA: _CONFIG,
}

LIMITS = (
    "A test-time defence is not a certified one: adaptive attackers who know "
    "it take back part or all of what it wins. The gate's threshold belongs to the model that it was "
    "calibrated for. What a gate measures is a statistic, not an attack detector. A countered image can "
    "cost several times another. See SECURITY.md of clipfast."
)


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """All that an exported classifier's file says about itself.

    Attributes:
        profile: "serving" or "lab"; see `clipfast.artifacts.ports.ports`.
        static: Whether the file has the static form; see `clipfast.artifacts.ports.ports`.
        batch: The batch size, or None for any.
        pixels: The dtype of the pixels that the file takes.
        outputs: The names of the outputs, in order.
        width: The number of elements D of an embedding, or None if it is not known.
        model_name: open_clip's name of the model, or None if it has none.
        pretrained: open_clip's name of the weights, or None if they have none.
        weights_sha256: The `clipfast.models.fingerprint.fingerprint` of the image tower, 64 hexadecimal
            digits.
        drift_weights_sha256: The fingerprint of the tower that measures drift, or None if that is the
            same tower.
        classnames: The C class names, in the order of the logits.
        templates: The prompt templates, with {} where the class name goes.
        config: The settings of the defence.
        calibrated: Whether `config.tau_threshold` was calibrated for this model.
        calibration: The figures of that calibration by name, or None if there are none.
        preprocess: The transform from image files to pixels.
        precision: The number format of the operands of large matrix products.
        versions: The versions of the packages that exported the file, "clipfast" and "torch" among them.
        limits: What the defence does not protect against, in words.
        license: The licence of the weights.
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
        """The inputs and the outputs of the file, in order.

        Raises:
            InputError: If the fields contradict each other; see `clipfast.artifacts.ports.ports`.
        """
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
        """Returns the metadata as JSON text, from which `from_json` builds equal metadata.

        Raises:
            ValueError: If a number is not finite.
        """
        values = {"schema": SCHEMA, **dataclasses.asdict(self)}
        values["preprocess"] = written_preprocess(values["preprocess"])
        return json.dumps(values, indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Metadata:
        """Reads the text that `to_json` of this version or an older one wrote.

        Settings that an older version did not have take their defaults.

        Raises:
            ArtifactError: If the text is not a JSON object, is of another kind of file, or has a newer or
                unknown schema; or a field is missing, unknown, of another type or value, or contradicts
                another one. The message names the field.
        """
        values = read_object(text)
        if "kind" in values:
            raise ArtifactError(f"it holds {values['kind']!s:.40}, and no defended classifier")
        schema = values.pop("schema", None)
        check_schema(schema, _CONFIGS.keys())
        if schema < 4 and _SINCE_4.isdisjoint(values):
            values |= {"outputs": list(usual_outputs(values.get("profile", "serving"))), "width": None}
        check_fields(values, _FIELDS)
        check_keys(values["config"], _CONFIGS[schema], "config.")
        config = made(CounterattackConfig.from_settings, "config", {"settings": values["config"]})
        preprocess = read_preprocess(values["preprocess"])
        names = {name: tuple(values[name]) for name in ("classnames", "templates", "outputs")}
        metadata = cls(**{**values, **names, "config": config, "preprocess": preprocess})
        _check_agreement(metadata)
        return metadata


_FIELDS: dict[str, Field] = COMMON | {
    "profile": one_of(*get_args(Profile)),
    "static": FLAG,
    "outputs": TEXTS,
    "width": SIZE,
    "drift_weights_sha256": ("64 hexadecimal digits or null", lambda v: v is None or DIGEST[1](v)),
    "classnames": TEXTS,
    "templates": TEXTS,
    "config": OBJECT,
    "calibrated": FLAG,
    "calibration": (
        "an object of finite numbers or null",
        lambda v: v is None or (isinstance(v, dict) and all(map(is_number, v.values()))),
    ),
    "limits": TEXT,
}


def _check_agreement(metadata: Metadata) -> None:
    try:
        check_classnames(metadata.classnames)
        for template in metadata.templates:
            check_template(template)
    except InputError as error:
        raise ArtifactError(f"metadata fields 'classnames' and 'templates': {error}") from error
    try:
        _ = metadata.ports
    except InputError as error:
        raise ArtifactError(f"metadata fields do not go together: {error}") from error
    measured_by = metadata.drift_weights_sha256 or metadata.weights_sha256
    marked = metadata.config.calibrated_for is not None
    if metadata.calibrated and not marked and not _is_known(metadata):
        raise ArtifactError("metadata field 'calibrated' is true, but 'config' bears no mark of it")
    if metadata.calibrated and marked and not metadata.config.is_calibrated(measured_by):
        raise ArtifactError(
            "metadata field 'calibrated' is true, but 'config' is marked as calibrated for other weights, "
            "threshold, gate, eps or norm"
        )


def _is_known(metadata: Metadata) -> bool:
    """Whether there is nothing to calibrate, or the published threshold is used with its own model."""
    source = metadata.model_name, metadata.pretrained
    return metadata.config.gate == "none" or (
        source in PUBLISHED_FOR and metadata.config.gates_as_published()
    )
