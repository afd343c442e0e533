"""A runtime as the rest of clipfast sees it: a loaded file, arrays in and out. Needs no torch."""

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

Arrays = Mapping[str, NDArray[Any]]  # by the name of the input or output
PortFacts = tuple[str, tuple[int | None, ...]]  # dtype and shape: None is a size that is not fixed


@dataclass(frozen=True)
class GraphPorts:
    """The inputs and outputs of a file's graph.

    Attributes:
        inputs: The dtype and shape of each input, by name.
        outputs: The dtype and shape of each output, by name.
    """

    inputs: Mapping[str, PortFacts]
    outputs: Mapping[str, PortFacts]


class Session(ABC):
    """An exported file that a runtime has loaded.

    Many threads may call `run` at once. A copy or pickle loads the file again.

    Args:
        path: The file.
        text: The metadata text that the file carries, or None.
        ports: The inputs and outputs of the file's graph, or None if the runtime does not tell them.
        placed: How many nodes of the graph each device or provider runs, by its name.
        options: The keyword arguments that the file was loaded with, which a copy is loaded with too.
            With None the session cannot be copied.

    Attributes:
        path: The file.
        text: The metadata text that the file carries, or None.
        ports: The inputs and outputs of the file's graph, or None if the runtime does not tell them.
        placed: How many nodes of the graph each device or provider runs, by its name.
        pid: The id of the process that loaded the file.
        is_slow: Whether the runtime is too slow to serve.
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
        """Runs the file.

        Args:
            inputs: The input arrays by name, in the order of the file's metadata.
            outputs: The names of the outputs, in the order of the file's metadata.

        Returns:
            The output arrays by name.

        Raises:
            ArtifactError: If the runtime fails.
        """
        try:
            return self._run(inputs, outputs)
        except Exception as error:  # runtimes raise errors of many classes
            raise ArtifactError(f"{self.path}: running it failed: {one_line(error)}") from error

    @abstractmethod
    def _run(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Runs the file as `run` does; may raise any error."""


def one_line(error: Exception) -> str:
    """Returns the message of another library's error on one line of at most 400 characters.

    If the message is empty, it is the name of the error's class.
    """
    return " ".join(str(error).split())[:400] or type(error).__name__
