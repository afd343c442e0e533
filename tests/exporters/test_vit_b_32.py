"""ViT-B/32 with random weights in every format: each file agrees with the reference, and holds no more."""

from __future__ import annotations

import warnings

import numpy as np
import open_clip
import pytest
import torch

from clipfast import DefendedClassifier, UncalibratedWarning
from clipfast.exporters import export
from clipfast.models.shapes import draw
from clipfast.runtime import load_artifact

# An export with its verification takes minutes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

FILES = {
    "serving.onnx": {},
    "lab.onnx": {"profile": "lab"},
    "static.onnx": {"static": True, "pixels": "uint8"},
    "fp16.onnx": {"profile": "lab", "precision": "fp16"},
    "lab.ts.pt": {"format": "torchscript", "profile": "lab"},
    "lab.pt2": {"format": "aotinductor", "profile": "lab"},
}


@pytest.fixture(scope="module")
def classifier() -> DefendedClassifier:
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32", pretrained=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UncalibratedWarning)
        return DefendedClassifier(
            model, open_clip.get_tokenizer("ViT-B-32"), [f"class {i}" for i in range(10)]
        )


@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated")
def test_the_file_agrees_with_the_reference(classifier, tmp_path, name):
    exported = export(classifier, tmp_path / name, **FILES[name])  # raises where it disagrees
    assert exported.verifications
    assert all(verification.agrees for verification in exported.verifications.values())
    tower = classifier.image_tower.model.visual
    size = 4 * sum(p.numel() for p in tower.parameters())
    if name == "fp16.onnx":  # of the patch projection x reads float32 and d a half; the last one is float32
        size = size // 2 + 4 * tower.conv1.weight.numel() + 2 * tower.proj.numel()
    assert 0.97 < exported.path.stat().st_size / size < 1.02
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        artifact = load_artifact(exported.path, trust=True)
    pixels = draw(3, seed=5, size=224).pixels
    if exported.metadata.pixels == "float32":
        pixels = pixels.astype(np.float32) / 255
    answered = artifact.predict(pixels)
    expected = classifier.undefended(torch.from_numpy(pixels))
    tolerance = 0.1 if name == "fp16.onnx" else 2e-4
    np.testing.assert_allclose(answered.undefended_logits, expected.numpy(), rtol=0, atol=tolerance)
    assert answered.countered.all()  # random weights hardly drift
