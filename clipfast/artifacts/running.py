"""Reads and runs exported files, the same way for every content and runtime. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ArtifactError, InputError
from ..inputs import arrays
from .ports import PixelType, Port, Ports, described
from .sessions.session import Arrays, PortFacts, Session

__all__ = ["check_ports", "pixels_taken", "read_metadata", "run_in_batches"]

_T = TypeVar("_T")


def read_metadata(session: Session, read: Callable[[str], _T]) -> _T:
    """Reads the metadata that a file carries.

    Args:
        session: The loaded file.
        read: Reads a metadata text. It raises ArtifactError for one that it cannot read.

    Returns:
        What `read` returns.

    Raises:
        ArtifactError: If the file carries no metadata, or `read` cannot read it. The message names the
            file.
    """
    if not session.text:
        raise ArtifactError(f"{session.path}: carries no clipfast metadata, so clipfast did not export it")
    try:
        return read(session.text)
    except ArtifactError as error:
        raise ArtifactError(f"{session.path}: {error}") from error


def check_ports(session: Session, inputs: Ports, outputs: Ports) -> None:
    """Checks that the inputs and outputs of a file's graph are those of its metadata.

    Nothing is checked if the runtime does not tell the graph's ports. `run_in_batches` then checks the
    outputs when the file runs.

    Args:
        session: The loaded file.
        inputs: The inputs that the metadata names.
        outputs: The outputs that the metadata names.

    Raises:
        ArtifactError: If an input or output is missing, is not in the metadata, or has another dtype or
            shape.
    """
    if session.ports is None:
        return
    _check(session, "input", inputs, session.ports.inputs)
    _check(session, "output", outputs, session.ports.outputs)


def pixels_taken(path: Path, pixels: arrays.Pixels, size: tuple[int, int], dtype: PixelType) -> arrays.Pixels:
    """Checks pixels and converts them to the dtype that a file takes.

    Args:
        path: The file, for error messages.
        pixels: [N, 3, *size], uint8, or float in [0, 1].
        size: (height, width) that the pixels must have.
        dtype: The dtype that the file takes.

    Returns:
        The pixels [N, 3, *size] as contiguous uint8, or as float32 in [0, 1].

    Raises:
        InputError: If the pixels have another type, shape or dtype; are outside [0, 1], NaN or infinite;
            or are floats although the file takes uint8.
    """
    x = arrays.check_pixels(pixels, size)
    if dtype == "float32":
        return arrays.as_unit(x)
    if x.dtype != np.uint8:
        raise InputError(f"{path} takes uint8 pixels, got {pixels.dtype}")
    return x


def run_in_batches(
    session: Session, inputs: Arrays, outputs: Sequence[Port], *, batch: int | None
) -> dict[str, NDArray[Any]]:
    """Runs a file on N images, in batches of its size if that is fixed.

    The last row is repeated to fill an incomplete batch. Without images nothing is run.

    Args:
        session: The loaded file.
        inputs: Arrays [N, ...] by name, in the order of the file's metadata.
        outputs: The outputs that the file must give, in order.
        batch: The file's batch size, or None for any; all images are then run at once.

    Returns:
        The outputs for the N images by name, with the dtypes and shapes of `outputs`.

    Raises:
        ArtifactError: If the runtime fails, or the file gives other outputs, dtypes or shapes.
    """
    n = len(next(iter(inputs.values())))
    answer = {port.name: np.empty(_shape(port, n), port.dtype) for port in outputs}
    size = batch or n
    for first in range(0, n, size or 1):
        rows = {name: _filled(array[first : first + size], size) for name, array in inputs.items()}
        found = session.run(rows, [port.name for port in outputs])
        _check_outputs(session, outputs, found, size)
        for name, output in found.items():
            answer[name][first : first + size] = output[: n - first]
    return answer


def _check(session: Session, kind: str, ports: Ports, found: Mapping[str, PortFacts]) -> None:
    expected = {port.name: (port.dtype, port.shape) for port in ports}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ArtifactError(
                f"{session.path}: its metadata has {_described(expected.get(name))} as {kind} {name!r}, "
                f"its graph {_described(found.get(name))}"
            )


def _described(port: PortFacts | None) -> str:
    return "nothing" if port is None else described(*port)


def _check_outputs(session: Session, outputs: Sequence[Port], found: Arrays, n: int) -> None:
    expected = {port.name: (port.dtype, list(_shape(port, n))) for port in outputs}
    got = {name: (str(array.dtype), list(array.shape)) for name, array in found.items()}
    if got != expected:
        raise ArtifactError(f"{session.path}: expected the outputs {expected}, got {got}")


def _shape(port: Port, n: int) -> tuple[int, ...]:
    """A port's shape for n images."""
    return (n, *(size for size in port.shape[1:] if size is not None))


def _filled(rows: NDArray[Any], size: int) -> NDArray[Any]:
    """Rows up to a fixed batch, by copies of the last."""
    if len(rows) == size:
        return rows
    return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)])
