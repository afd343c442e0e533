"""Attacks and classifies the pictures of a demo, from files on disk."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
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

# The names of the systems that texts refer to.
UNDEFENDED, TWIN = "undefended", "fine-tuned twin"

_WRITTEN = "pictures.json"  # the list of the files that a demo writes, so that the next one removes them


@dataclass(frozen=True)
class SystemRow:
    """One system's accuracy, in [0, 1], and its cost.

    Attributes:
        clean: The share of clean pictures that are right.
        attacked: The share of pictures that are right under the transfer attack.
        adaptive: The share of pictures that are right clean, under the transfer attack and under every
            attack on the system itself.
        cost_clean: Its time over that of undefended CLIP, on clean pictures.
        cost_attacked: Its time over that of undefended CLIP, on attacked pictures.
    """

    clean: float
    attacked: float
    adaptive: float
    cost_clean: float
    cost_attacked: float


@dataclass(frozen=True)
class Defended:
    """A preset's settings, and its answers to the N pictures of a demo.

    Attributes:
        config: The settings.
        clean: The answers to the clean pictures.
        attacked: The answers to the attacked pictures.
    """

    config: CounterattackConfig
    clean: Prediction[Tensor]
    attacked: Prediction[Tensor]


@dataclass(frozen=True)
class DemoResult:
    """The results of a demo on N pictures.

    Attributes:
        described: Texts about the pictures and the model.
        rows: Accuracy and cost by the system's name.
        labels: int64 [N].
        clean_pixels: uint8 [N, 3, H, W].
        attacked_pixels: uint8 [N, 3, H, W], under the transfer attack.
        defences: Settings and answers by preset.
    """

    described: Described
    rows: Mapping[str, SystemRow]
    labels: Tensor
    clean_pixels: Tensor
    attacked_pixels: Tensor
    defences: Mapping[Preset, Defended]


def experiment(subject: Subject, out: Path, *, seed: int, progress: Callable[[float], object]) -> DemoResult:
    """Attacks and classifies a subject's pictures, and writes them as 8-bit PNG files.

    The transfer attack is PGD-10 on the undefended model with the l-inf budget `ATTACK_EPS`. Files of an
    earlier demo in `out` are removed.

    Args:
        subject: The pictures and classifiers.
        out: The folder to write to, in its folders clean and attacked.
        seed: The seed of attacks and noise.
        progress: Called while the attacks run, with the share of them that is done since the last call.

    Returns:
        The results.

    Raises:
        InputError: If `out` is not a folder that can be written.
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

    def answers(classifier: DefendedClassifier) -> Iterator[Prediction[Tensor]]:
        for pixels in (clean, attacked):
            yield classifier.predict(pixels, seed=seed, with_delta=True, with_undefended=True)

    return DemoResult(
        described=subject.described,
        rows=rows,
        labels=labels,
        clean_pixels=clean,
        attacked_pixels=attacked,
        defences={preset: Defended(each.config, *answers(each)) for preset, each in subject.defended.items()},
    )


def _chunk(image_size: tuple[int, int]) -> int:
    """How many pictures are attacked at a time: 4 to 64, fewer of large pictures."""
    height, width = image_size
    return max(4, min(64, _CHUNK_PIXELS // (height * width)))


def _places(out: Path, names: list[str]) -> dict[str, list[Path]]:
    """The files for clean and attacked pictures; those of an earlier demo are removed."""
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
    """Pixels written to PNG files and read again: uint8 [N, 3, H, W]."""
    try:
        for file, image in zip(files, pixels, strict=True):
            Image.fromarray(image.transpose(1, 2, 0)).save(file)
    except OSError as error:
        raise InputError(f"cannot write pictures to {files[0].parent}: {error.strerror or error}") from error
    return torch.from_numpy(classifier.preprocess.batch(files))
