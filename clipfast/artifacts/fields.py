"""The JSON metadata of exported files: the key it is stored under, and how its fields are checked."""

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

Precision = Literal["fp32", "fp16"]  # of the operands of large matrix products

# The name under which a file stores its metadata text. TorchScript's extra file adds ".json" to it.
KEY = "clipfast"

# What a field's value must be: described in words, and as a test of the JSON value.
Field = tuple[str, Callable[[Any], bool]]

_LARGEST = 2**31  # integers must be smaller in absolute value
_LONGEST = 2**14  # the longest side of a picture, in pixels

# How pixels are laid out, the same for every model. Written for readers other than clipfast.
_PIXELS = {"color_order": "RGB", "range": [0, 1]}


def is_integer(value: Any) -> bool:
    """Returns whether a JSON value is an integer; booleans are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Returns whether a JSON value is a finite number; booleans are not numbers.

    An integer must also be smaller than 2^31 in absolute value.
    """
    return (is_integer(value) and abs(value) < _LARGEST) or (
        isinstance(value, float) and math.isfinite(value)
    )


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def one_of(*known: str) -> Field:
    """Returns a field whose value must be one of the given strings."""
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
    """Reads a JSON object from a text.

    Raises:
        ArtifactError: If the text is not JSON, or its value is not an object.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"its metadata is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise ArtifactError(f"its metadata is no JSON object, but {reprlib.repr(values)}")
    return values


def check_schema(schema: Any, known: Set[int]) -> None:
    """Checks that a schema number is one that this version of clipfast reads.

    Args:
        schema: The value of the metadata field "schema".
        known: The schemas that can be read.

    Raises:
        ArtifactError: If the schema is not an integer, is newer than every known one, or is not a known
            one.
    """
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
    """Checks that a JSON object has exactly the expected keys.

    Args:
        values: The JSON object.
        known: The expected keys.
        prefix: Text put before a key in error messages, such as "config.".

    Raises:
        ArtifactError: If a key is missing or unknown. The message names the first one in sorted order.
    """
    if missing := sorted(known - set(values)):
        raise ArtifactError(f"metadata field '{prefix}{missing[0]}' is missing")
    if unknown := sorted(set(values) - known):
        raise ArtifactError(f"unknown metadata field '{prefix}{unknown[0]}'")


def check_fields(values: Mapping[str, Any], fields: Mapping[str, Field], prefix: str = "") -> None:
    """Checks the keys and the values of a JSON object.

    Args:
        values: The JSON object.
        fields: The expected fields by key.
        prefix: Text put before a key in error messages, such as "preprocess.".

    Raises:
        ArtifactError: If a key is missing or unknown, or a value is not what its field expects.
    """
    check_keys(values, fields.keys(), prefix)
    for name, (expected, is_so) in fields.items():
        if not is_so(values[name]):
            got = reprlib.repr(values[name])
            raise ArtifactError(f"expected {expected} as metadata field '{prefix}{name}', got {got}")


def made(kind: Callable[..., Any], name: str, settings: Mapping[str, Any]) -> Any:
    """Builds the object that a metadata field describes.

    Args:
        kind: Builds the object from keyword arguments.
        name: The name of the metadata field, for error messages.
        settings: The keyword arguments for `kind`.

    Returns:
        What `kind` returns.

    Raises:
        ArtifactError: If `kind` raised InputError or OverflowError for these settings.
    """
    try:
        return kind(**settings)
    except (InputError, OverflowError) as error:
        raise ArtifactError(f"metadata field '{name}': {error}") from error


def written_preprocess(preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the metadata field "preprocess" for a `Preprocess` that is given as a dictionary.

    The field also says how pixels are laid out: colour order RGB, range [0, 1].
    """
    return {**preprocess, **_PIXELS}


def read_preprocess(values: Mapping[str, Any]) -> Preprocess:
    """Reads the metadata field "preprocess" as `written_preprocess` writes it.

    Raises:
        ArtifactError: If a key is missing or unknown, a value is not what is expected, or `Preprocess`
            does not accept the settings.
    """
    check_fields(values, _PREPROCESS, "preprocess.")
    settings = {name: value for name, value in values.items() if name not in _PIXELS}
    return made(Preprocess, "preprocess", settings | {"size": tuple(settings["size"])})
