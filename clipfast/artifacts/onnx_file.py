"""Finds the weights and seeds that an ONNX file names, before a runtime opens it. Needs no onnx."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..errors import ArtifactError

__all__ = ["OnnxFile", "read_onnx"]

_Kind = Literal["model", "function", "graph", "node", "attribute", "tensor", "sparse tensor", "entry"]

# For each kind of message: its fields that lead to weights or random numbers, by number in onnx.proto.
_INSIDE: dict[_Kind, dict[int, _Kind]] = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"
    },
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},  # of external_data
    "entry": {},
}  # fmt: skip
_ATTRIBUTE_NAME, _KEY, _VALUE = 1, 1, 2
_DEEPEST = 64  # levels of nested messages, enough for some ten nested graphs


@dataclass
class OnnxFile:
    """What was found in an ONNX file.

    Attributes:
        locations: The files beside it that hold weights, named as the ONNX file names them.
        seeded: Whether an operator draws random numbers from a seed that is stored in the file. It would
            draw the same numbers in every session.
    """

    locations: set[str] = field(default_factory=set)
    seeded: bool = False


def read_onnx(path: Path) -> OnnxFile:
    """Looks through an ONNX file without loading its weights into memory.

    Raises:
        ArtifactError: If the file is truncated, or is not an ONNX file.
        OSError: If the file cannot be opened.
        ValueError: If the file is empty.
    """
    found = OnnxFile()
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        _look(data, "model", found, _DEEPEST)
    except (ValueError, IndexError) as error:
        raise ArtifactError(
            f"{path}: expected an ONNX file; it is truncated, or of another format"
        ) from error
    return found


def _look(data: memoryview, kind: _Kind, found: OnnxFile, deeper: int) -> None:
    if deeper == 0:
        raise ValueError("too many messages within messages")
    inside = _INSIDE[kind]
    values: dict[int, memoryview] = {}
    for number, value in _fields(data):
        if number in inside:
            _look(value, inside[number], found, deeper - 1)
        else:
            values[number] = value
    if kind == "attribute" and values.get(_ATTRIBUTE_NAME) == b"seed":
        found.seeded = True
    if kind == "entry" and values.get(_KEY) == b"location":
        found.locations.add(bytes(values.get(_VALUE, b"")).decode())


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """A message's fields that have a length, by number: strings, messages and packed numbers."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        match tag & 7:
            case 0:
                _, at = _varint(data, at)
            case 1:
                at += 8
            case 2:
                size, at = _varint(data, at)
                yield tag >> 3, data[at : at + size]
                at += size
            case 5:
                at += 4
            case wire_type:
                raise ValueError(f"unknown wire type {wire_type}")
    if at > end:
        raise ValueError("the last field is longer than what is left")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of at most 64 bits, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise ValueError("a number of more than ten bytes")
