"""The demo's measurements, all through the public classifier and through PNG files on disk."""

from __future__ import annotations

import json
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
from ..files import read_text, write_text
from ..measurement.interleave import interleaved
from ..prediction import Prediction
from .adaptive import still_right
from .subject import DEFENCES, Described, Subject

__all__ = [
    "ATTACK_EPS",
    "TWIN",
    "UNDEFENDED",
    "Defended",
    "DemoResult",
    "SystemRow",
    "experiment",
]

ATTACK_EPS = 2 / 255
_CHUNK_PIXELS = 64 * 96 * 96

# What the systems that the words name are called.
UNDEFENDED, TWIN = "undefended", "fine-tuned twin"

_WRITTEN = "pictures.json"  # which files an earlier demo left


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

    described: Described
    rows: Mapping[str, SystemRow]
    labels: Tensor
    clean_pixels: Tensor
    attacked_pixels: Tensor
    defences: Mapping[Preset, Defended]


def experiment(subject: Subject, out: Path, *, seed: int, progress: Callable[[float], object]) -> DemoResult:
    """Attacks and classifies a subject's pictures; writes them below `out` as 8-bit PNG files.

    progress: called as the attacks go on, with the share of them that is done since the last call. Raises
    InputError where `out` is not a folder that can be written.
    """
    classifier, labels = subject.classifier, subject.labels
    files = _places(out, subject.names)
    clean = _write_and_read(files["clean"], subject.pixels.numpy(), classifier)
    x = clean.float() / 255
    systems = [
        undefended(classifier, UNDEFENDED),
        blurred(classifier),
        *([] if subject.twin is None else [undefended(subject.twin, TWIN)]),
        *(countered(subject.defended[preset], name) for preset, name in DEFENCES.items()),
    ]
    chunk = _chunk(classifier.image_size)
    part = 1 / (1 + len(systems))
    step = part / (math.ceil(len(labels) / chunk) * PGD_STEPS)
    transfer = attack_in_chunks(
        systems[0], x, labels, eps=ATTACK_EPS, chunk=chunk, seed=seed, progress=lambda: progress(step)
    )
    # Rounding to 8 bits keeps the budget, because clean pixels and eps are whole grey levels.
    levels = np.rint(transfer.numpy() * 255).astype(np.uint8)
    attacked = _write_and_read(files["attacked"], levels, classifier)
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
            chunk=chunk,
            seed=seed,
            progress=lambda share: progress(share * part),
        )
        accuracies = [float(flags.mean()) for flags in (right, right_attacked, left)]
        rows[system.name] = SystemRow(*accuracies, *(seconds[2 * i + j] / seconds[j] for j in range(2)))
    return DemoResult(
        described=subject.described,
        rows=rows,
        labels=labels,
        clean_pixels=clean,
        attacked_pixels=attacked,
        defences={
            preset: Defended(
                each.config, *(each.predict(p, seed=seed, with_delta=True) for p in (clean, attacked))
            )
            for preset, each in subject.defended.items()
        },
    )


def _chunk(image_size: tuple[int, int]) -> int:
    """How many pictures are attacked at a time: as many as hold the pixels of 64 of the bundled model's."""
    height, width = image_size
    return max(4, min(64, _CHUNK_PIXELS // (height * width)))


def _places(out: Path, names: list[str]) -> dict[str, list[Path]]:
    """The files of clean and attacked pictures, those of an earlier demo gone."""
    listed = out / _WRITTEN
    places = {kind: [f"{kind}/{name}.png" for name in names] for kind in ("clean", "attacked")}
    try:
        if listed.exists():
            for place in json.loads(read_text(listed)):
                if re.fullmatch(r"(clean|attacked)/[^/\\]+\.png", place):
                    (out / place).unlink(missing_ok=True)
        for kind in places:
            (out / kind).mkdir(parents=True, exist_ok=True)
        write_text(listed, json.dumps([*places["clean"], *places["attacked"]], indent=0) + "\n")
    except OSError as error:
        raise InputError(f"cannot write pictures to {out}: {error.strerror or error}") from error
    return {kind: [out / place for place in each] for kind, each in places.items()}


def _write_and_read(files: list[Path], pixels: NDArray[np.uint8], classifier: DefendedClassifier) -> Tensor:
    """Pixels as they are after a trip through PNG files: uint8 [N, 3, H, W]."""
    try:
        for file, image in zip(files, pixels, strict=True):
            Image.fromarray(image.transpose(1, 2, 0)).save(file)
    except OSError as error:
        raise InputError(f"cannot write pictures to {files[0].parent}: {error.strerror or error}") from error
    return torch.from_numpy(classifier.preprocess.batch(files))
