"""Loads exported files of every format by their names. Needs no torch."""

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
    """Loads an exported classifier.

    The end of the file's name tells its format: .onnx, .ts.pt (TorchScript) or .pt2 (AOTInductor). The
    last two need torch.

    Args:
        path: The exported file.
        runtime: For an .onnx file "onnxruntime", "openvino", or for checks "reference". "auto" selects
            the first installed one of onnxruntime and openvino.
        trust: Whether the file's code may run. Files of .ts.pt and .pt2 run code when they are loaded.
        noise_policy: See `ArtifactClassifier`.
        noise_key: See `ArtifactClassifier`.
        sha256: The digest that the file must have, as `clipfast.runtime.sha256_of` returns it. What is
            loaded is then a copy that was digested while it was made.
        **options: Keyword arguments of the runtime, as `OnnxClassifier` and `OpenVinoClassifier` have
            them; for the other formats `device`.

    Returns:
        The classifier. It warns as `ArtifactClassifier` does.

    Raises:
        ArtifactError: If the file's name ends in none of these suffixes; a program is loaded without
            `trust`; or as for `OnnxClassifier`.
        InputError: If the runtime does not run such files; an option, policy or key is not valid; or an
            AOTInductor file was compiled for another kind of device.
        ModuleNotFoundError: If the runtime's package is not installed. The message names the extra.
    """
    session = format_of(path).load(Path(path), runtime=runtime, trust=trust, sha256=sha256, **options)
    return ArtifactClassifier(session, noise_policy=noise_policy, noise_key=noise_key)


def load_encoder(
    path: str | os.PathLike[str], *, runtime: str = "auto", trust: bool = False, **options: Any
) -> ImageEncoder:
    """Loads an exported image encoder.

    Args:
        path: The exported file; the end of its name tells its format, as for `load_artifact`.
        runtime: As for `load_artifact`.
        trust: As for `load_artifact`.
        **options: Keyword arguments of the runtime, as for `load_artifact`; also `sha256`.

    Returns:
        The encoder.

    Raises:
        ArtifactError: As for `load_artifact`, and for a file that holds no image encoder.
        InputError: As for `load_artifact`.
        ModuleNotFoundError: If the runtime's package is not installed. The message names the extra.
    """
    return ImageEncoder(format_of(path).load(Path(path), runtime=runtime, trust=trust, **options))
