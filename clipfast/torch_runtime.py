"""Exported classifiers that torch runs: TorchScript and AOTInductor. Both formats are programs."""

from __future__ import annotations

import os
import warnings
import zipfile
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._inductor import aoti_load_package

from .artifact import ArtifactClassifier, check_file, one_line, read_metadata
from .errors import ArtifactError, InputError
from .exporters.metadata import KEY
from .validation_rules import NoisePolicy

__all__ = ["AOTInductorClassifier", "TorchScriptClassifier"]

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


class TorchScriptClassifier(TorchClassifier):
    """A defended classifier exported to TorchScript, a legacy format that torch has deprecated.

    Arguments and errors as for `TorchClassifier`.
    """

    def _load(self, path: Path) -> tuple[Program, str | None]:
        extra: dict[str, Any] = {f"{KEY}.json": ""}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*torch\.jit\.load.* is deprecated")
            program = torch.jit.load(path, map_location=self.device, _extra_files=extra)
        return program, extra[f"{KEY}.json"].decode()


class AOTInductorClassifier(TorchClassifier):
    """A defended classifier exported by AOTInductor: compiled for one kind of device and processor.

    Arguments and errors as for `TorchClassifier`; InputError for another kind of device too.
    """

    def _load(self, path: Path) -> tuple[Program, str | None]:
        index = -1 if self.device.index is None else self.device.index
        program = aoti_load_package(path, device_index=index)
        entries = program.get_metadata()
        if (made_for := entries.get("AOTI_DEVICE_KEY")) != self.device.type:
            raise InputError(f"{path} was compiled for {made_for}, got device {str(self.device)!r}")
        return program, entries.get(KEY)
