"""Exported classifiers in TorchScript, a legacy format."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from .metadata import KEY
from .torch_runtime import Program, TorchClassifier

__all__ = ["TorchScriptClassifier"]


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
