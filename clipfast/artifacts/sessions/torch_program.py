"""What both formats share that torch runs: their files are programs."""

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

Program = Callable[..., Sequence[Tensor]]


class TorchSession(Session):
    """A program over torch.

    path: the file. trust: such a file runs its own code when it is loaded; without trust it is not opened.
    device: where it runs. threads: torch's own. sha256: see `clipfast.runtime.load_artifact`.

    A file that draws its own noise does so by torch's global generator, which torch seeds from the operating
    system: `torch.manual_seed` makes it predictable, and it is not cryptographic.

    Raises ArtifactError without trust, and for a file that is missing, truncated or foreign. Programs name
    neither inputs nor outputs: whether they are those of the metadata shows when `run` gives some.
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
        except Exception as error:  # torch raises whatever it stumbles over
            raise ArtifactError(f"{path}: torch cannot load it: {one_line(error)}") from error
        options = {"trust": trust, "device": device, "sha256": sha256}
        super().__init__(path, text, ports=None, placed={}, options=options)

    @abstractmethod
    def _load(self, path: Path) -> tuple[Program, str | None]:
        """The file's program on self.device, and its metadata text if it has some."""

    def _run(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        # What is made here lives off differences that an autocast forward pass would round away.
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            found = self._program(*(self._tensor(array) for array in inputs.values()))
        if len(found) != len(outputs):
            raise ArtifactError(f"expected the outputs {', '.join(outputs)}, got {len(found)} tensors")
        return {name: tensor.cpu().numpy() for name, tensor in zip(outputs, found, strict=True)}

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        # torch warns of memory that is read-only, as a caller's pixels may be.
        return torch.from_numpy(np.require(array, requirements="W")).to(self.device)
