"""What is compared of exported classifiers: ONNX Runtime, OpenVINO and AOTInductor against the reference."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import open_clip
import torch
from torch import Tensor, nn

from ..artifacts.aotinductor import AOTInductorClassifier
from ..artifacts.base import ArtifactClassifier
from ..artifacts.onnx_runtime import OnnxClassifier
from ..artifacts.openvino_runtime import OpenVinoClassifier
from ..artifacts.ports import Port
from ..classifier import DefendedClassifier
from ..encoders import Encoder, make_encoder
from ..errors import UncalibratedWarning
from ..exporters import export
from ..exporters.onnx.writer import write
from ..models.tower import ImageTower
from ..reference import counterattack
from .scenario import GatedImages, published_noise

__all__ = ["Artifacts", "exported_columns"]


class UndefendedGraph(nn.Module):
    """Pixels float32 [N, 3, H, W] -> embeddings [N, D]: plain CLIP by the graph that the defence runs."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        """f(x)."""
        return (self.encoder.embed(self.encoder.project(self.encoder.to_layout(pixels))),)


class Artifacts:
    """A tower's exports, written into `folder` and loaded: the defence as lab files, and undefended ONNX."""

    def __init__(self, tower: ImageTower, model: str, folder: Path, threads: int) -> None:
        names = [f"class {i}" for i in range(10)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UncalibratedWarning)
            classifier = DefendedClassifier(tower.model, open_clip.get_tokenizer(model), names)
            export(classifier, folder / "defended.onnx", profile="lab", verify=False)
            export(classifier, folder / "defended.pt2", format="aotinductor", profile="lab", verify=False)
            self.defended: dict[str, ArtifactClassifier] = {
                "onnx": OnnxClassifier(folder / "defended.onnx", threads=threads),
                "openvino": OpenVinoClassifier(folder / "defended.onnx", threads=threads),
                "aotinductor": AOTInductorClassifier(folder / "defended.pt2", trust=True),
            }
        picture, width = (None, 3, *tower.image_size), classifier.class_weights.shape[0]
        write(
            UndefendedGraph(make_encoder(tower, pack=False)),
            (torch.rand(5, *picture[1:]),),
            "{}",
            folder / "undefended.onnx",
            inputs=(Port("pixels", "float32", picture),),
            outputs=(Port("embedding", "float32", (None, width)),),
            opset=20,
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.undefended = onnxruntime.InferenceSession(folder / "undefended.onnx", options)


@torch.no_grad()
def undefended(tower: ImageTower, x: Tensor) -> Tensor:
    """f(x) by open_clip's own eager pass."""
    return tower(x)


def exported_columns(
    tower: ImageTower, artifacts: Artifacts, images: GatedImages
) -> dict[str, Callable[[], object]]:
    """Each column's work on a batch; the artifacts' noise is drawn by their runtime."""
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
        "undefended onnx": lambda: artifacts.undefended.run(None, {"pixels": pixels}),
        **{
            name: lambda artifact=artifact: defended(artifact)
            for name, artifact in artifacts.defended.items()
        },
    }
