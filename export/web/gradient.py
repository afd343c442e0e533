"""The undefended model alone, and its gradient for an attacker, as ONNX files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from clipfast import DefendedClassifier, ops
from clipfast.artifacts.ports import Port
from clipfast.encoders import Encoder, make_encoder
from clipfast.exporters.onnx.writer import write

__all__ = ["GradientGraph", "UndefendedGraph", "write_gradient", "write_undefended"]

_OPSET = 20


class _Graph(nn.Module):
    """encoder: an unpacked form, which can be traced. class_weights: [D, C]. logit_scale: a scalar."""

    def __init__(self, encoder: Encoder, class_weights: Tensor, logit_scale: Tensor) -> None:
        super().__init__()
        self.encoder, self.class_weights, self.logit_scale = encoder, class_weights, logit_scale

    def _head(self, embedding: Tensor) -> Tensor:
        return ops.zero_shot_head(embedding, self.class_weights, self.logit_scale, implementation="naive")


class UndefendedGraph(_Graph):
    """pixels float32 [N, 3, H, W] in [0, 1] -> logits float32 [N, C] of the undefended model."""

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        return self._head(self.encoder.embed(self.encoder.project(self.encoder.to_layout(pixels))))


class GradientGraph(_Graph):
    """pixels float32 [N, 3, H, W], label int64 [N] -> logits float32 [N, C], gradient float32 [N, 3, H, W].

    The logits are the undefended model's; the gradient is that of -log softmax(logits)_label to the pixels.
    """

    def forward(self, pixels: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        x = self.encoder.to_layout(pixels)
        embedding, saved = self.encoder.forward(self.encoder.project(x), torch.zeros_like(x))
        logits = self._head(embedding)
        chosen = torch.arange(logits.shape[1], device=label.device) == label[:, None]
        # p - 1 of a label that is nearly certain would be mostly rounding: it is what the others have.
        others = torch.where(chosen, 0.0, logits.softmax(dim=1))
        surplus = torch.where(chosen, -others.sum(dim=1, keepdim=True), others)
        g = self.logit_scale * surplus @ self.class_weights.t()
        # The head reads f / ||f||, so that its gradient has no part along f.
        length = embedding.norm(dim=1, keepdim=True)
        u = embedding / length
        cotangent = (g - (g * u).sum(dim=1, keepdim=True) * u) / length
        return logits, self.encoder.from_layout(self.encoder.input_gradient(saved, cotangent))


def write_undefended(classifier: DefendedClassifier, path: Path) -> None:
    """Writes `UndefendedGraph` of a classifier for one image: pixels [1, 3, H, W] -> logits [1, C]."""
    pixels, logits = _ports(classifier)
    _write(UndefendedGraph, classifier, path, (pixels,), (logits,))


def write_gradient(classifier: DefendedClassifier, path: Path) -> None:
    """Writes `GradientGraph` of a classifier for one image: pixels, label [1] -> logits, gradient."""
    pixels, logits = _ports(classifier)
    gradient = Port("gradient", "float32", pixels.shape)
    _write(GradientGraph, classifier, path, (pixels, Port("label", "int64", (1,))), (logits, gradient))


def _ports(classifier: DefendedClassifier) -> tuple[Port, Port]:
    """The pixels and the logits of one image."""
    pixels = Port("pixels", "float32", (1, 3, *classifier.image_size))
    return pixels, Port("logits", "float32", (1, len(classifier.classnames)))


def _write(
    graph: type[_Graph],
    classifier: DefendedClassifier,
    path: Path,
    inputs: tuple[Port, ...],
    outputs: tuple[Port, ...],
) -> None:
    encoder = make_encoder(classifier.image_tower, pack=False)
    examples = (torch.rand(1, 3, *classifier.image_size), torch.zeros(1, dtype=torch.int64))
    write(
        graph(encoder, classifier.class_weights, classifier.logit_scale).eval(),
        examples[: len(inputs)],
        "",
        path,
        inputs=inputs,
        outputs=outputs,
        opset=_OPSET,
    )
