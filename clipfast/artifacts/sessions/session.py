"""What the rest of clipfast sees of a runtime: a loaded file that takes and gives arrays. Needs no torch."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from ...errors import ArtifactError

__all__ = ["Arrays", "GraphPorts", "PortFacts", "Session", "one_line"]

Arrays = Mapping[str, NDArray[Any]]
PortFacts = tuple[str, tuple[int | None, ...]]  # dtype and shape: None is a size that is not fixed


@dataclass(frozen=True)
class GraphPorts:
    """The inputs and the outputs of a graph, by name."""

    inputs: Mapping[str, PortFacts]
    outputs: Mapping[str, PortFacts]


class Session(ABC):
    """An exported file that a runtime has loaded.

    path: the file. text: what it carries under clipfast's key, None for nothing. ports: of its graph; None
    where the runtime does not tell them. placed: how many nodes of its graph each device or provider runs.

    Many threads may call `run` at once. is_slow: too slow to serve. pid: of the process that loaded it.
    options: keyword arguments that it was loaded with, by which a copy is loaded from the same file again;
    None where that cannot be.
    """

    is_slow: ClassVar[bool] = False

    def __init__(
        self,
        path: Path,
        text: str | None,
        *,
        ports: GraphPorts | None,
        placed: Mapping[str, int],
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        self.text = text
        self.ports = ports
        self.placed = placed
        self.pid = os.getpid()
        self._options = options

    def __reduce__(self) -> tuple[Any, ...]:
        if self._options is None:
            raise TypeError(f"cannot copy {type(self).__name__}")
        return partial(type(self), **self._options), (self.path,)

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """The outputs of these names. Both are in the order of the file's metadata.

        Raises ArtifactError where the runtime fails.
        """
        try:
            return self._run(inputs, outputs)
        except Exception as error:  # runtimes raise whatever they stumble over
            raise ArtifactError(f"{self.path}: running it failed: {one_line(error)}") from error

    @abstractmethod
    def _run(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """`run`, which may raise anything."""


def one_line(error: Exception) -> str:
    """What another library's error says, on one line of bounded length."""
    return " ".join(str(error).split())[:400] or type(error).__name__
