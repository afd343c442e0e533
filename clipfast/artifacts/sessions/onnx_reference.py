"""The evaluator of the package onnx: what the standard says, operator by operator."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ...errors import ArtifactError, names_extra
from ..fields import KEY
from ..parts import as_checked
from .session import Arrays, Session, one_line

__all__ = ["OnnxReferenceSession"]


class OnnxReferenceSession(Session):
    """An ONNX file over `onnx.reference`, for checks: it is slow, and shares no code with what serves.

    A file that draws its own noise does so by numpy's generator, seeded by the operating system.

    Raises ArtifactError for a file that is missing, truncated or foreign; ModuleNotFoundError without onnx.
    """

    is_slow = True

    def __init__(self, path: str | os.PathLike[str], *, sha256: str | None = None) -> None:
        try:
            import onnx
            from onnx.reference import ReferenceEvaluator
        except ModuleNotFoundError as error:
            raise names_extra(Path(path).name, error) from error
        path = Path(path)
        try:
            with as_checked(path, sha256) as file:
                model = onnx.load(file)
            self._evaluator = ReferenceEvaluator(model)
        except ArtifactError:
            raise
        except Exception as error:  # its errors have no common class but this
            raise ArtifactError(f"{path}: onnx cannot read it: {one_line(error)}") from error
        carried = {entry.key: entry.value for entry in model.metadata_props}
        placed = {"reference": len(model.graph.node)}
        super().__init__(path, carried.get(KEY), ports=None, placed=placed, options={"sha256": sha256})

    def _run(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        found = self._evaluator.run([*outputs], dict(inputs))
        assert isinstance(found, list)
        return dict(zip(outputs, found, strict=True))
