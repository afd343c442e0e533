"""TorchScript, a legacy format that torch has deprecated."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from ..fields import KEY
from .torch_program import Program, TorchSession

__all__ = ["TorchScriptSession"]


class TorchScriptSession(TorchSession):
    """A TorchScript file; arguments and errors are those of `TorchSession`."""

    def _load(self, path: Path) -> tuple[Program, str | None]:
        extra: dict[str, Any] = {f"{KEY}.json": ""}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*torch\.jit\.load.* is deprecated")
            program = torch.jit.load(path, map_location=self.device, _extra_files=extra)
        return program, extra[f"{KEY}.json"].decode()
