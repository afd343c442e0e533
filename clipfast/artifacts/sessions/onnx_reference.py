"""The reference evaluator of the package onnx, which follows the standard operator by operator."""

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

    Args:
        path: The .onnx file.
        sha256: The digest that the file must have; see `clipfast.runtime.load_artifact`.

    Raises:
        ArtifactError: If the file is missing, truncated, or has another digest, or onnx cannot read it.
        ModuleNotFoundError: If onnx is not installed. The message names the extra.
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
        except Exception as error:  # onnx's errors have no other class in common
            raise ArtifactError(f"{path}: onnx cannot read it: {one_line(error)}") from error
        carried = {entry.key: entry.value for entry in model.metadata_props}
        placed = {"reference": len(model.graph.node)}
        super().__init__(path, carried.get(KEY), ports=None, placed=placed, options={"sha256": sha256})

    def _run(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        found = self._evaluator.run([*outputs], dict(inputs))
        assert isinstance(found, list)
        return dict(zip(outputs, found, strict=True))
