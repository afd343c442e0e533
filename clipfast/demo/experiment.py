"""The demo's measurements, all through the public classifier and through PNG files on disk."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from ..classifier import DefendedClassifier
from ..config import CounterattackConfig
from ..errors import InputError
from ..evaluation.attacks import pgd
from ..evaluation.baselines import blur
from ..evaluation.shapes import CLASSNAMES, KINDS, draw
from ..prediction import Prediction

__all__ = ["ADAPTIVE_SAMPLES", "ATTACK_EPS", "ATTACK_STEPS", "DemoResult", "Row", "experiment"]

ATTACK_EPS = 2 / 255
ATTACK_STEP_SIZE = 1 / 255
ATTACK_STEPS = 10
ADAPTIVE_SAMPLES = 4

# The report of the bundled model uses other streams, so these pictures are fresh.
_STREAM = 100


@dataclass(frozen=True)
class Row:
    """One system's accuracy, in [0, 1], and its cost over undefended CLIP on clean and attacked pictures."""

    system: str
    clean: float
    attacked: float
    adaptive: float
    cost_clean: float
    cost_attacked: float


@dataclass(frozen=True)
class DemoResult:
    """What the demo found. Pixels are uint8 [N, 3, H, W]; predictions are of the same N pictures."""

    rows: list[Row]
    labels: Tensor
    kinds: NDArray[np.int64]
    clean_pixels: Tensor
    attacked_pixels: Tensor
    clean: Prediction
    attacked: Prediction
    config: CounterattackConfig


def experiment(out: Path, *, images: int, seed: int, console: Console) -> DemoResult:
    """Draws, attacks and classifies `images` pictures; writes them below `out` as 8-bit PNG files."""
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

    def attack(system: Callable[[Tensor], Tensor], stream: int, samples: int = 1) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 16 + stream)
        return pgd(
            system, x, labels, eps=ATTACK_EPS, step_size=ATTACK_STEP_SIZE, steps=ATTACK_STEPS,
            samples=samples, generator=generator, progress=lambda: progress.advance(task),
        )  # fmt: skip

    def blurred(pixels: Tensor) -> Tensor:
        return classifier.undefended(blur(pixels).clamp(0, 1))

    def defended(pixels: Tensor) -> Tensor:
        return classifier.predict(pixels, seed=seed).logits

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("attacking", total=4 * ATTACK_STEPS)
        # Rounding to 8 bits keeps the budget, because clean pixels and eps are whole grey levels.
        transfer = np.rint(attack(classifier.undefended, 0).numpy() * 255).astype(np.uint8)
        attacked = _write_and_read(out / "attacked", names, transfer, classifier)
        against_blur = attack(blurred, 1)
        against_twin = attack(twin.undefended, 2)
        against_defence = attack(classifier.differentiable("bpda"), 3, ADAPTIVE_SAMPLES)

    systems: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
        "undefended": (classifier.undefended, attacked),
        "3x3 blur": (blurred, against_blur),
        "fine-tuned twin": (twin.undefended, against_twin),
        "TTC (clipfast)": (defended, against_defence),
    }
    a = attacked.float() / 255
    runs = [lambda f=system, p=p: f(p) for system, _ in systems.values() for p in (x, a)]
    with torch.no_grad():
        seconds = _interleaved(runs)
        undefended = seconds[:2]
        rows = [
            Row(
                name,
                *(_accuracy(system(p), labels) for p in (x, a, adaptive)),
                *(seconds[2 * i + j] / undefended[j] for j in range(2)),
            )
            for i, (name, (system, adaptive)) in enumerate(systems.items())
        ]
    return DemoResult(
        rows=rows,
        labels=labels,
        kinds=pictures.kinds,
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
        files = [folder / f"{name.replace(' ', '-')}.png" for name in names]
        for file, image in zip(files, pixels, strict=True):
            Image.fromarray(image.transpose(1, 2, 0)).save(file)
    except OSError as error:
        raise InputError(f"cannot write pictures to {folder}: {error.strerror or error}") from error
    return torch.from_numpy(classifier.preprocess.batch(files))


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(dim=1) == labels).double().mean().item()


def _interleaved(runs: list[Callable[[], object]], repeats: int = 3) -> list[float]:
    """Median seconds of each run, the runs taking turns so that a noisy machine bears on all alike."""
    samples: list[list[float]] = [[] for _ in runs]
    for repeat in range(repeats + 1):
        for times, go in zip(samples, runs, strict=True):
            start = time.perf_counter()
            go()
            if repeat:  # the first round warms up
                times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in samples]
