"""The demo's measurements, all through the public classifier and through PNG files on disk."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
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
from ..config import CounterattackConfig, Preset
from ..errors import InputError
from ..evaluation.defences.systems import blurred, countered
from ..measurement.interleave import interleaved
from ..models.bundled import bundled_defaults
from ..models.shapes import CLASSNAMES, KINDS, draw
from ..prediction import Prediction
from .adaptive import still_right

__all__ = [
    "ATTACK_EPS",
    "DEFENCES",
    "TWIN",
    "UNDEFENDED",
    "Defended",
    "DemoResult",
    "SystemRow",
    "experiment",
]

ATTACK_EPS = 2 / 255
_CHUNK = 64

# What the systems that the words name are called.
UNDEFENDED, TWIN = "undefended", "fine-tuned twin"
DEFENCES: dict[Preset, str] = {"published": "TTC as published", "recommended": "recommended"}

_OURS = re.compile(
    rf"\d{{3,}}-({'|'.join(KINDS)})-({'|'.join(c.replace(' ', '-') for c in CLASSNAMES)})\.png"
)

# The report of the bundled model uses other streams, so these pictures are fresh.
_STREAM = 100


@dataclass(frozen=True)
class SystemRow:
    """One system's accuracy, in [0, 1], and its cost over undefended CLIP on clean and attacked pictures.

    adaptive: the share that is right clean, under the transfer attack and under all that are made on the
    system itself.
    """

    clean: float
    attacked: float
    adaptive: float
    cost_clean: float
    cost_attacked: float


@dataclass(frozen=True)
class Defended:
    """A preset's settings, and its answers to the N pictures of a demo."""

    config: CounterattackConfig
    clean: Prediction[Tensor]
    attacked: Prediction[Tensor]


@dataclass(frozen=True)
class DemoResult:
    """What the demo found. rows: by the system's name. Pixels are uint8 [N, 3, H, W]; labels int64 [N]."""

    rows: Mapping[str, SystemRow]
    labels: Tensor
    clean_pixels: Tensor
    attacked_pixels: Tensor
    defences: Mapping[Preset, Defended]


def experiment(out: Path, *, images: int, seed: int, progress: Callable[[float], object]) -> DemoResult:
    """Draws, attacks and classifies `images` pictures; writes them below `out` as 8-bit PNG files.

    progress: called as the attacks go on, with the share of them that is done since the last call. Raises
    InputError where `out` is not a folder that can be written.
    """
    classifier = DefendedClassifier.bundled()
    defended: dict[Preset, DefendedClassifier] = {
        preset: classifier.with_config(bundled_defaults(preset).config) for preset in DEFENCES
    }
    pictures = draw(images, seed=(_STREAM, seed), size=classifier.image_size[0])
    labels = torch.from_numpy(pictures.labels)
    names = [
        f"{i:03d}-{KINDS[kind]}-{CLASSNAMES[label]}"
        for i, (kind, label) in enumerate(zip(pictures.kinds, pictures.labels, strict=True))
    ]
    clean = _write_and_read(out / "clean", names, pictures.pixels, classifier)
    x = clean.float() / 255
    systems = [
        undefended(classifier, UNDEFENDED),
        blurred(classifier),
        undefended(DefendedClassifier.bundled(finetuned=True), TWIN),
        *(countered(defended[preset], name) for preset, name in DEFENCES.items()),
    ]
    part = 1 / (1 + len(systems))
    step = part / (math.ceil(images / _CHUNK) * PGD_STEPS)
    transfer = attack_in_chunks(
        systems[0], x, labels, eps=ATTACK_EPS, chunk=_CHUNK, seed=seed, progress=lambda: progress(step)
    )
    # Rounding to 8 bits keeps the budget, because clean pixels and eps are whole grey levels.
    levels = np.rint(transfer.numpy() * 255).astype(np.uint8)
    attacked = _write_and_read(out / "attacked", names, levels, classifier)
    both = x, attacked.float() / 255
    with torch.no_grad():
        seconds = interleaved([partial(system.logits, p) for system in systems for p in both])
    rows = {}
    for i, system in enumerate(systems):
        right, right_attacked = (correct(system, p, labels, seed=seed) for p in both)
        left = still_right(
            system,
            x,
            labels,
            right & right_attacked,
            eps=ATTACK_EPS,
            chunk=_CHUNK,
            seed=seed,
            progress=lambda share: progress(share * part),
        )
        accuracies = [float(flags.mean()) for flags in (right, right_attacked, left)]
        rows[system.name] = SystemRow(*accuracies, *(seconds[2 * i + j] / seconds[j] for j in range(2)))
    return DemoResult(
        rows=rows,
        labels=labels,
        clean_pixels=clean,
        attacked_pixels=attacked,
        defences={
            preset: Defended(
                each.config, *(each.predict(p, seed=seed, with_delta=True) for p in (clean, attacked))
            )
            for preset, each in defended.items()
        },
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
