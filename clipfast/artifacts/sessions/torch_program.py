"""The base of the sessions of both formats that torch runs, whose files are programs."""

from __future__ import annotations

import os
import zipfile
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import ArtifactError, InputError
from ..parts import as_checked
from .session import Arrays, Session, one_line

__all__ = ["Program", "TorchSession"]

Program = Callable[..., Sequence[Tensor]]  # the inputs, in order -> the outputs, in order


class TorchSession(Session):
    """A program over torch.

    A program names neither inputs nor outputs. Whether its outputs are those of the metadata is checked
    when the program runs.

    A file that draws its own noise uses torch's global generator, which torch seeds from the operating
    system. `torch.manual_seed` makes that noise predictable, and the generator is not cryptographic. A
    call uses as many threads as torch does.

    Args:
        path: The file.
        trust: Whether the file may run its own code, which it does when it is loaded. Without trust it is
            not opened.
        device: The device that the program runs on.
        sha256: The digest that the file must have; see `clipfast.runtime.load_artifact`.

    Attributes:
        device: The device that the program runs on.

    Raises:
        ArtifactError: If the file is not trusted, is missing or truncated, has another digest, or cannot
            be loaded by torch.
        RuntimeError: If torch does not know the device.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        trust: bool = False,
        device: str | torch.device = "cpu",
        sha256: str | None = None,
    ) -> None:
        path = Path(path)
        if not trust:
            raise ArtifactError(
                f"{path}: a file of this format runs its own code when it is loaded; "
                "pass trust=True (--trust) if you trust where it comes from"
            )
        self.device = torch.device(device)
        try:
            with as_checked(path, sha256) as file:
                if not zipfile.is_zipfile(file):
                    raise ArtifactError(
                        f"{path}: expected a ZIP archive; it is truncated, or of another format"
                    )
                self._program, text = self._load(file)
        except (ArtifactError, InputError):
            raise
        except Exception as error:  # torch raises errors of many classes
            raise ArtifactError(f"{path}: torch cannot load it: {one_line(error)}") from error
        options = {"trust": trust, "device": device, "sha256": sha256}
        super().__init__(path, text, ports=None, placed={}, options=options)

    @abstractmethod
    def _load(self, path: Path) -> tuple[Program, str | None]:
        """The file's program on self.device, and its metadata text if it has some."""

    def _run(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        # The defence depends on small differences that an autocast forward pass would round away.
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            found = self._program(*(self._tensor(array) for array in inputs.values()))
        if len(found) != len(outputs):
            raise ArtifactError(f"expected the outputs {', '.join(outputs)}, got {len(found)} tensors")
        return {name: tensor.cpu().numpy() for name, tensor in zip(outputs, found, strict=True)}

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        # A caller's pixels may be read-only memory, which torch warns about.
        return torch.from_numpy(np.require(array, requirements="W")).to(self.device)
