"""What every exported file is read and run by, whatever it holds and whatever runs it. Needs no torch."""

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
    """What a file carries, by the function that reads its kind.

    Raises ArtifactError for nothing and for what cannot be read; the message names the file.
    """
    if not session.text:
        raise ArtifactError(f"{session.path}: carries no clipfast metadata, so clipfast did not export it")
    try:
        return read(session.text)
    except ArtifactError as error:
        raise ArtifactError(f"{session.path}: {error}") from error


def check_ports(session: Session, inputs: Ports, outputs: Ports) -> None:
    """Raises ArtifactError where a graph's inputs or outputs are not those of its metadata.

    What a runtime does not tell shows when it runs.
    """
    if session.ports is None:
        return
    _check(session, "input", inputs, session.ports.inputs)
    _check(session, "output", outputs, session.ports.outputs)


def pixels_taken(path: Path, pixels: arrays.Pixels, size: tuple[int, int], dtype: PixelType) -> arrays.Pixels:
    """Checked pixels, [N, 3, *size], as a file takes them.

    Raises InputError for bad pixels, and for floats where the file takes uint8.
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
    """The outputs for N images by name, in pieces of the file's batch where it is fixed.

    inputs: [N, ...] each, in the order of the file's metadata. Raises ArtifactError where running it fails,
    and where it gives something else than these outputs.
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
