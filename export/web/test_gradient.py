"""The graphs that the page attacks and times with, against autograd."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from gradient import write_gradient, write_undefended

from clipfast import DefendedClassifier
from clipfast.models.shapes import draw


@pytest.fixture(scope="module")
def classifier() -> DefendedClassifier:
    return DefendedClassifier.bundled()


def _session(write, classifier: DefendedClassifier, path: Path) -> onnxruntime.InferenceSession:
    write(classifier, path)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


# Of a label that is nearly certain the gradient follows 1 - p, and so the logits' own rounding.
@pytest.mark.parametrize(
    ("true_label", "limit"), [(True, 3e-5), (False, 1e-5)], ids=["true label", "another label"]
)
def test_gradient_is_autograds(classifier, tmp_path, true_label, limit):
    pictures = draw(4, seed=(401, 1))
    session = _session(write_gradient, classifier, tmp_path / "gradient.onnx")
    # In float32 autograd itself is up to 1e-3 off for a true label, which it gives p - 1.
    tower, scale, weights = (
        copy.deepcopy(part).double()
        for part in (classifier.image_tower, classifier.logit_scale, classifier.class_weights)
    )
    for pixels, drawn in zip(pictures.pixels, pictures.labels, strict=True):
        label = torch.tensor([drawn if true_label else (drawn + 50) % 120])
        x = (torch.from_numpy(pixels)[None] / 255).double().requires_grad_()
        expected = scale * F.normalize(tower(x), dim=1) @ weights
        (g,) = torch.autograd.grad(F.cross_entropy(expected, label), x)
        given = {"pixels": x.detach().float().numpy(), "label": label.numpy()}
        logits, gradient = map(np.asarray, session.run(None, given))
        np.testing.assert_allclose(logits, expected.detach().numpy(), atol=1e-4)
        assert gradient.shape == g.shape
        assert np.abs(gradient - g.numpy()).max() <= limit * g.abs().max()


def test_undefended_logits_are_the_classifiers(classifier, tmp_path):
    session = _session(write_undefended, classifier, tmp_path / "undefended.onnx")
    for pixels in draw(3, seed=(401, 2)).pixels:
        one = torch.from_numpy(pixels)[None]
        expected = classifier.predict(one, seed=0, with_undefended=True).undefended_logits
        given = {"pixels": (pixels[None] / np.float32(255)).astype(np.float32)}
        (logits,) = map(np.asarray, session.run(None, given))
        np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)
