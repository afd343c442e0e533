"""Exported files by their names, whatever their format. Needs no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..inputs.rules import NoiseKey, NoisePolicy
from .classifier import ArtifactClassifier
from .encoder import ImageEncoder
from .formats import format_of

__all__ = ["load_artifact", "load_encoder"]


def load_artifact(
    path: str | os.PathLike[str],
    *,
    runtime: str = "auto",
    trust: bool = False,
    noise_policy: NoisePolicy = "fresh",
    noise_key: NoiseKey = None,
    sha256: str | None = None,
    **options: Any,
) -> ArtifactClassifier:
    """Reads an exported classifier by its file's name: .onnx, .ts.pt (TorchScript) or .pt2 (AOTInductor).

    runtime: of an .onnx file "onnxruntime", "openvino", or for checks "reference"; "auto" takes the first of
    the first two that is installed. trust: for the other formats, which need torch and run the file's code
    when they load it. noise_policy, noise_key: see `ArtifactClassifier`. sha256: the digest that the file
    must have (`clipfast.runtime.sha256_of`); what is loaded is then a copy, digested as it was made. options:
    of the runtime, as `OnnxClassifier` and `OpenVinoClassifier` have them; for the other formats `device`.

    Raises ArtifactError for another name, InputError for a runtime that does not run such files,
    ModuleNotFoundError naming the extra for one that is not installed, and as `OnnxClassifier` does.
    """
    session = format_of(path).load(Path(path), runtime=runtime, trust=trust, sha256=sha256, **options)
    return ArtifactClassifier(session, noise_policy=noise_policy, noise_key=noise_key)


def load_encoder(
    path: str | os.PathLike[str], *, runtime: str = "auto", trust: bool = False, **options: Any
) -> ImageEncoder:
    """Reads an exported image encoder by its file's name. Arguments and errors as for `load_artifact`."""
    return ImageEncoder(format_of(path).load(Path(path), runtime=runtime, trust=trust, **options))
