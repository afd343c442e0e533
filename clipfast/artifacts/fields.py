"""The JSON text that exported files carry: the key that it has there, and how its fields are read."""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Callable, Mapping, Set
from typing import Any, Literal, get_args

from .._version import __version__
from ..errors import ArtifactError, InputError
from ..preprocess import Preprocess
from .ports import PixelType

__all__ = [
    "COMMON",
    "DIGEST",
    "FLAG",
    "KEY",
    "OBJECT",
    "SIZE",
    "TEXT",
    "TEXTS",
    "Field",
    "Precision",
    "check_fields",
    "check_keys",
    "check_schema",
    "is_integer",
    "is_number",
    "made",
    "one_of",
    "read_object",
    "read_preprocess",
    "written_preprocess",
]

Precision = Literal["fp32", "fp16"]  # of the large products' operands

# The name under which a file keeps the text; TorchScript's extra file has .json behind it.
KEY = "clipfast"

Field = tuple[str, Callable[[Any], bool]]  # what it must be: in words, and as a test of the JSON value

_LARGEST = 2**31  # of a whole number
_LONGEST = 2**14  # side of a picture, in pixels

# How pixels are laid out, whatever the model: written for readers other than clipfast.
_PIXELS = {"color_order": "RGB", "range": [0, 1]}


def is_integer(value: Any) -> bool:
    """Whether a JSON value is an integer."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number."""
    return (is_integer(value) and abs(value) < _LARGEST) or (
        isinstance(value, float) and math.isfinite(value)
    )


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def one_of(*known: str) -> Field:
    """A field that is one of these strings."""
    return " or ".join(map(repr, known)), lambda value: value in known


TEXT: Field = ("a string", lambda value: isinstance(value, str))
TEXTS: Field = ("a list of one string or more", _is_texts)
FLAG: Field = ("true or false", lambda value: isinstance(value, bool))
OBJECT: Field = ("an object", lambda value: isinstance(value, dict))
DIGEST: Field = ("64 hexadecimal digits", _is_digest)
SIZE: Field = ("a positive integer or null", lambda v: v is None or (is_integer(v) and 0 < v < _LARGEST))
_NAME: Field = ("a string or null", lambda value: value is None or isinstance(value, str))

# The fields of every exported file.
COMMON: dict[str, Field] = {
    "batch": SIZE,
    "pixels": one_of(*get_args(PixelType)),
    "model_name": _NAME,
    "pretrained": _NAME,
    "weights_sha256": DIGEST,
    "preprocess": OBJECT,
    "precision": one_of(*get_args(Precision)),
    "versions": (
        "an object of strings with 'clipfast' and 'torch'",
        lambda v: isinstance(v, dict) and {"clipfast", "torch"} <= set(v) and _is_texts([*v.values()]),
    ),
    "license": TEXT,
}

_PREPROCESS: dict[str, Field] = {
    "size": (
        f"a list of two integers from 1 to {_LONGEST}",
        lambda v: (
            isinstance(v, list)
            and len(v) == 2
            and all(is_integer(side) and 0 < side <= _LONGEST for side in v)
        ),
    ),
    "interpolation": TEXT,
    "resize_mode": TEXT,
    "fill_color": ("an integer from 0 to 255", lambda v: is_integer(v) and 0 <= v <= 255),
    **{name: (repr(only), lambda v, only=only: v == only) for name, only in _PIXELS.items()},
}


def read_object(text: str) -> dict[str, Any]:
    """A JSON object. Raises ArtifactError for another text."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"its metadata is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise ArtifactError(f"its metadata is no JSON object, but {reprlib.repr(values)}")
    return values


def check_schema(schema: Any, known: Set[int]) -> None:
    """Raises ArtifactError for a schema that is none of the known ones."""
    if not is_integer(schema):
        raise ArtifactError(f"expected an integer as metadata field 'schema', got {reprlib.repr(schema)}")
    if schema > max(known):
        raise ArtifactError(
            f"its metadata has schema {schema}, clipfast {__version__} reads up to {max(known)}: "
            "a newer clipfast is needed"
        )
    if schema not in known:
        raise ArtifactError(f"its metadata has schema {schema}, clipfast {__version__} reads {tuple(known)}")


def check_keys(values: Mapping[str, Any], known: Set[str], prefix: str = "") -> None:
    """Raises ArtifactError where keys are missing or unknown. prefix: what comes before their names."""
    if missing := sorted(known - set(values)):
        raise ArtifactError(f"metadata field '{prefix}{missing[0]}' is missing")
    if unknown := sorted(set(values) - known):
        raise ArtifactError(f"unknown metadata field '{prefix}{unknown[0]}'")


def check_fields(values: Mapping[str, Any], fields: Mapping[str, Field], prefix: str = "") -> None:
    """Raises ArtifactError for values that are not of these fields; prefix as for `check_keys`."""
    check_keys(values, fields.keys(), prefix)
    for name, (expected, is_so) in fields.items():
        if not is_so(values[name]):
            got = reprlib.repr(values[name])
            raise ArtifactError(f"expected {expected} as metadata field '{prefix}{name}', got {got}")


def made(kind: Callable[..., Any], name: str, settings: Mapping[str, Any]) -> Any:
    """What a field of settings stands for. Raises ArtifactError for settings that do not fit."""
    try:
        return kind(**settings)
    except (InputError, OverflowError) as error:
        raise ArtifactError(f"metadata field '{name}': {error}") from error


def written_preprocess(preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """The field "preprocess", of a `Preprocess` as a dictionary."""
    return {**preprocess, **_PIXELS}


def read_preprocess(values: Mapping[str, Any]) -> Preprocess:
    """What `written_preprocess` wrote. Raises ArtifactError for anything else."""
    check_fields(values, _PREPROCESS, "preprocess.")
    settings = {name: value for name, value in values.items() if name not in _PIXELS}
    return made(Preprocess, "preprocess", settings | {"size": tuple(settings["size"])})
