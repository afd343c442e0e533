"""Picture files as the demo leaves them: clean, and under its attack on the undefended model."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from clipfast import DefendedClassifier
from clipfast.attacks import pgd
from clipfast.models.shapes import draw


def write_pictures(folder: Path, classifier: DefendedClassifier, n: int, *, seed: tuple[int, int]) -> None:
    """Writes n PNG files of 96 x 96 below `clean`, and below `attacked` under the same names."""
    drawn = draw(n, seed=seed)
    x, labels = torch.from_numpy(drawn.pixels).float() / 255, torch.from_numpy(drawn.labels)
    attacked = pgd(classifier.undefended, x, labels, eps=2 / 255, step_size=1 / 255, steps=10)
    for kind, batch in (("clean", x), ("attacked", attacked)):
        (folder / kind).mkdir()
        for i, image in enumerate((batch * 255).round().to(torch.uint8)):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / kind / f"{i:02}.png")
