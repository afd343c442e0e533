"""Exported classifiers in ONNX, over `onnx.reference`: what the standard says, operator by operator."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..errors import ArtifactError, names_extra
from ..inputs.rules import NoisePolicy
from .base import ArtifactClassifier, check_file, one_line, read_metadata
from .metadata import KEY

__all__ = ["OnnxReferenceClassifier"]


class OnnxReferenceClassifier(ArtifactClassifier):
    """A defended classifier exported to ONNX, over the numpy evaluator of the package onnx.

    For checks: it is slow, and shares no code with the runtimes that serve. path, noise_policy, noise_key,
    warnings: see `ArtifactClassifier`. A file that draws its own noise does so by numpy's generator, seeded
    by the operating system.

    Raises ArtifactError for a file that is missing, truncated, foreign or of a newer schema;
    ModuleNotFoundError without onnx. Whether its inputs and outputs are those of its metadata shows when
    `predict` runs it.
    """

    slow = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        noise_policy: NoisePolicy = "fresh",
        noise_key: bytes | None = None,
    ) -> None:
        try:
            import onnx
            from onnx.reference import ReferenceEvaluator
        except ModuleNotFoundError as error:
            raise names_extra(type(self).__name__, error) from error
        path = Path(path)
        check_file(path)
        try:
            model = onnx.load(path)
            evaluator = ReferenceEvaluator(model)
        except Exception as error:  # its errors have no common class but this
            raise ArtifactError(f"{path}: onnx cannot read it: {one_line(error)}") from error
        carried = {entry.key: entry.value for entry in model.metadata_props}
        metadata = read_metadata(path, carried.get(KEY))
        runs = {"reference": len(model.graph.node)}
        super().__init__(path, metadata, noise_policy=noise_policy, noise_key=noise_key, placed=runs)
        self._evaluator = evaluator

    def _run(self, inputs: Sequence[NDArray[Any]]) -> Sequence[Any]:
        fed = {port.name: array for port, array in zip(self._inputs, inputs, strict=True)}
        found = self._evaluator.run([port.name for port in self._outputs], fed)
        assert isinstance(found, list)
        return found
