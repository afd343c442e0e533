"""What exported classifiers share that torch runs: both of their formats are programs."""

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

from ..errors import ArtifactError, InputError
from ..inputs.rules import NoisePolicy
from .base import ArtifactClassifier, check_file, one_line, read_metadata

__all__ = ["Program", "TorchClassifier"]

Program = Callable[..., Sequence[Tensor]]


class TorchClassifier(ArtifactClassifier):
    """What the classifiers of both formats share.

    path: the file. trust: such a file runs its own code when it is loaded; without trust it is not opened.
    device: where it runs. noise_policy, noise_key, warnings: see `ArtifactClassifier`. threads: torch's own.

    A file that draws its own noise does so by torch's global generator, which torch seeds from the operating
    system: `torch.manual_seed` makes it predictable, and it is not cryptographic.

    Raises ArtifactError without trust, and for a file that is missing, truncated, foreign or of a newer
    schema. Whether its inputs and outputs are those of its metadata shows when `predict` runs it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        trust: bool = False,
        device: str | torch.device = "cpu",
        noise_policy: NoisePolicy = "fresh",
        noise_key: bytes | None = None,
    ) -> None:
        path = Path(path)
        if not trust:
            raise ArtifactError(
                f"{path}: a file of this format runs its own code when it is loaded; "
                "pass trust=True (--trust) if you trust where it comes from"
            )
        check_file(path)
        if not zipfile.is_zipfile(path):
            raise ArtifactError(f"{path}: expected a ZIP archive; it is truncated, or of another format")
        self.device = torch.device(device)
        try:
            self._program, text = self._load(path)
        except InputError:
            raise
        except Exception as error:  # torch raises whatever it stumbles over
            raise ArtifactError(f"{path}: torch cannot load it: {one_line(error)}") from error
        super().__init__(path, read_metadata(path, text), noise_policy=noise_policy, noise_key=noise_key)

    @abstractmethod
    def _load(self, path: Path) -> tuple[Program, str | None]:
        """The file's program on self.device, and its metadata text if it has some."""

    def _run(self, inputs: Sequence[NDArray[Any]]) -> Sequence[Any]:
        # The defence lives off differences that an autocast forward pass would round away.
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            outputs = self._program(*(self._tensor(array) for array in inputs))
        return [output.cpu().numpy() for output in outputs]

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        # torch warns of memory that is read-only, as a caller's pixels may be.
        return torch.from_numpy(np.require(array, requirements="W")).to(self.device)
