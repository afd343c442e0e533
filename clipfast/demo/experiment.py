"""The demo's measurements, all through the public classifier and through PNG files on disk."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..attacks.pgd10 import PGD_STEPS, attack_in_chunks, correct
from ..attacks.system import undefended
from ..classifier import DefendedClassifier
from ..config import CounterattackConfig
from ..errors import InputError
from ..evaluation.defences.systems import blurred, countered
from ..measurement.interleave import interleaved
from ..measurement.statistics import right_in_every_case
from ..models.shapes import CLASSNAMES, KINDS, draw
from ..prediction import Prediction

__all__ = ["ATTACK_EPS", "DemoResult", "SystemRow", "experiment"]

ATTACK_EPS = 2 / 255
_CHUNK = 64

_OURS = re.compile(
    rf"\d{{3,}}-({'|'.join(KINDS)})-({'|'.join(c.replace(' ', '-') for c in CLASSNAMES)})\.png"
)

# The report of the bundled model uses other streams, so these pictures are fresh.
_STREAM = 100


@dataclass(frozen=True)
class SystemRow:
    """One system's accuracy, in [0, 1], and its cost over undefended CLIP on clean and attacked pictures.

    adaptive: the share that is right clean, under the transfer attack and under the one on the system itself.
    """

    system: str
    clean: float
    attacked: float
    adaptive: float
    cost_clean: float
    cost_attacked: float


@dataclass(frozen=True)
class DemoResult:
    """What the demo found. Pixels are uint8 [N, 3, H, W]; predictions are of the same N pictures."""

    rows: list[SystemRow]
    labels: Tensor
    clean_pixels: Tensor
    attacked_pixels: Tensor
    clean: Prediction[Tensor]
    attacked: Prediction[Tensor]
    config: CounterattackConfig


def experiment(out: Path, *, images: int, seed: int, progress: Callable[[float], object]) -> DemoResult:
    """Draws, attacks and classifies `images` pictures; writes them below `out` as 8-bit PNG files.

    progress: called as the attacks go on, with the share of them that is done since the last call. Raises
    InputError where `out` is not a folder that can be written.
    """
    classifier = DefendedClassifier.bundled()
    twin = DefendedClassifier.bundled(finetuned=True)
    pictures = draw(images, seed=(_STREAM, seed), size=classifier.image_size[0])
    labels = torch.from_numpy(pictures.labels)
    names = [
        f"{i:03d}-{KINDS[kind]}-{CLASSNAMES[label]}"
        for i, (kind, label) in enumerate(zip(pictures.kinds, pictures.labels, strict=True))
    ]
    clean = _write_and_read(out / "clean", names, pictures.pixels, classifier)
    x = clean.float() / 255
    systems = [
        undefended(classifier),
        blurred(classifier),
        undefended(twin, "fine-tuned twin"),
        countered(classifier, "TTC (clipfast)"),
    ]
    step = 1 / (len(systems) * math.ceil(images / _CHUNK) * PGD_STEPS)
    against = [
        attack_in_chunks(
            system,
            x,
            labels,
            eps=ATTACK_EPS,
            chunk=_CHUNK,
            seed=seed * 16 + i,
            progress=lambda: progress(step),
        )
        for i, system in enumerate(systems)
    ]
    # Rounding to 8 bits keeps the budget, because clean pixels and eps are whole grey levels.
    transfer = np.rint(against[0].numpy() * 255).astype(np.uint8)
    attacked = _write_and_read(out / "attacked", names, transfer, classifier)
    against[0] = attacked.float() / 255
    both = x, against[0]
    with torch.no_grad():
        seconds = interleaved([partial(system.logits, p) for system in systems for p in both])
    rows = []
    for i, (system, adapted) in enumerate(zip(systems, against, strict=True)):
        right, right_attacked, right_adapted = (
            correct(system, p, labels, seed=seed) for p in (*both, adapted)
        )
        worst = right_in_every_case(right, right_attacked, right_adapted)
        accuracies = [float(flags.mean()) for flags in (right, right_attacked, worst)]
        rows.append(SystemRow(system.name, *accuracies, *(seconds[2 * i + j] / seconds[j] for j in range(2))))
    return DemoResult(
        rows=rows,
        labels=labels,
        clean_pixels=clean,
        attacked_pixels=attacked,
        clean=classifier.predict(clean, seed=seed, with_delta=True),
        attacked=classifier.predict(attacked, seed=seed, with_delta=True),
        config=classifier.config,
    )


def _write_and_read(
    folder: Path, names: list[str], pixels: NDArray[np.uint8], classifier: DefendedClassifier
) -> Tensor:
    """Pixels as they are after a trip through PNG files: uint8 [N, 3, H, W]."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.iterdir():
            if _OURS.fullmatch(file.name):  # an earlier demo's
                file.unlink()
        files = [folder / f"{name.replace(' ', '-')}.png" for name in names]
        for file, image in zip(files, pixels, strict=True):
            Image.fromarray(image.transpose(1, 2, 0)).save(file)
    except OSError as error:
        raise InputError(f"cannot write pictures to {folder}: {error.strerror or error}") from error
    return torch.from_numpy(classifier.preprocess.batch(files))
