"""What the tests of all deployments share: the bundled model as files, and pictures to classify."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from clipfast import DefendedClassifier
from clipfast.evaluation.attacks import pgd
from clipfast.evaluation.shapes import draw
from clipfast.exporters import export

EXPORTED: dict[str, dict[str, Any]] = {
    "serving.onnx": {"profile": "serving", "pixels": "uint8"},
    "lab.onnx": {"profile": "lab"},
    "serving.pt2": {"profile": "serving", "format": "aotinductor"},
    "lab.pt2": {"profile": "lab", "format": "aotinductor"},
}


@pytest.fixture(scope="session")
def artifact(tmp_path_factory) -> Callable[[str], Path]:
    """The bundled model as one of the files in EXPORTED, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("artifacts")

    def get(name: str) -> Path:
        path = folder / name
        if not path.exists():
            export(DefendedClassifier.bundled(), path, verify=False, **EXPORTED[name])
        return path

    return get


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """A folder with `clean` and `attacked`: 24 PNG files of 96 x 96 each, under the same names.

    Attacked by PGD on the undefended model, ten steps within 2/255.
    """
    folder = tmp_path_factory.mktemp("pictures")
    classifier, drawn = DefendedClassifier.bundled(), draw(24, seed=(400, 1))
    x, labels = torch.from_numpy(drawn.pixels).float() / 255, torch.from_numpy(drawn.labels)
    attacked = pgd(
        classifier.differentiable("undefended"), x, labels, eps=2 / 255, step_size=1 / 255, steps=10
    )
    for kind, batch in (("clean", x), ("attacked", attacked)):
        (folder / kind).mkdir()
        for i, image in enumerate((255 * batch).round().to(torch.uint8)):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / kind / f"{i:02}.png")
    return folder
