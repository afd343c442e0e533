"""The columns of exported classifiers: ONNX Runtime, OpenVINO and AOTInductor against the reference."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import torch
from torch import Tensor

from ..classifier import DefendedClassifier
from ..errors import UncalibratedWarning
from ..exporters import export, export_encoder
from ..models.tower import ImageTower
from ..reference import counterattack
from ..runtime import ArtifactClassifier, OnnxClassifier, OpenVinoClassifier, load_artifact, load_encoder
from .scenario import GatedImages, published_noise

__all__ = ["Artifacts", "exported_columns"]


class Artifacts:
    """A tower's exports, written into a folder and loaded.

    Args:
        tower: The tower.
        model: open_clip's name of the model, whose tokenizer is used.
        folder: Where the files are written.
        threads: How many threads ONNX Runtime and OpenVINO use.

    Attributes:
        defended: The defence under the profile "lab", by runtime: "onnx", "openvino" and "aotinductor".
        undefended: The plain image encoder in ONNX Runtime.
    """

    def __init__(self, tower: ImageTower, model: str, folder: Path, threads: int) -> None:
        names = [f"class {i}" for i in range(10)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UncalibratedWarning)
            classifier = DefendedClassifier(tower.model, open_clip.get_tokenizer(model), names)
            export(classifier, folder / "defended.onnx", profile="lab", verify=False)
            export(classifier, folder / "defended.pt2", format="aotinductor", profile="lab", verify=False)
            onnx, package = folder / "defended.onnx", folder / "defended.pt2"
            self.defended: dict[str, ArtifactClassifier] = {
                "onnx": OnnxClassifier(onnx, threads=threads),
                "openvino": OpenVinoClassifier(onnx, threads=threads),
                "aotinductor": load_artifact(package, trust=True),
            }
        plain = export_encoder(tower.model, folder / "undefended.onnx", verify=False)
        self.undefended = load_encoder(plain.path, runtime="onnxruntime", threads=threads)


@torch.no_grad()
def undefended(tower: ImageTower, x: Tensor) -> Tensor:
    """Returns f(x) by open_clip's own eager pass.

    Args:
        tower: The tower.
        x: float32 [N, 3, H, W] in [0, 1].

    Returns:
        float32 [N, D].
    """
    return tower(x)


def exported_columns(
    tower: ImageTower, artifacts: Artifacts, images: GatedImages
) -> dict[str, Callable[[], object]]:
    """Returns each column's work on a batch; the runtimes draw the noise of the artifacts.

    Args:
        tower: The tower that was exported.
        artifacts: Its exports.
        images: The batch, on the CPU, and settings that counter a known part of it.

    Returns:
        The work by the column's name. That of a defended artifact raises RuntimeError if other images are
        countered than expected.
    """
    x, config = images.pixels, images.config
    pixels = x.numpy()

    def defended(artifact: ArtifactClassifier) -> None:
        result = artifact.predict(pixels, tau_threshold=config.tau_threshold)
        if not np.array_equal(result.countered, images.countered.numpy()):
            raise RuntimeError(
                f"expected {int(images.countered.sum())} countered images, got {int(result.countered.sum())}"
            )

    return {
        "reference": lambda: counterattack(tower, x, published_noise(x, config), config),
        "undefended eager": lambda: undefended(tower, x),
        "undefended onnx": lambda: artifacts.undefended.encode_image(pixels),
        **{
            name: lambda artifact=artifact: defended(artifact)
            for name, artifact in artifacts.defended.items()
        },
    }
