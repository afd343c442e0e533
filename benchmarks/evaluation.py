"""What the engine saves an evaluation: `python benchmarks/evaluation.py`, bundled model, a minute or two.

TTC on clean pictures, through the engine and through `clipfast.reference` as published, in the chunks of
`clipfast eval`; the two take turns on the same noise. Accuracy with its standard error, and times.
"""

from __future__ import annotations

import statistics
from typing import NamedTuple

import torch

from clipfast import DefendedClassifier
from clipfast.bench.interleave import ratio, rounds
from clipfast.draws import draw_noise, seeded
from clipfast.evaluation import statistics as shares
from clipfast.evaluation.datasets import find_dataset
from clipfast.evaluation.systems import countered
from clipfast.reference import counterattack

PICTURES, CHUNK, ROUNDS = 200, 50, 5


class Answered(NamedTuple):
    """What was answered in the last round, int64 [N] of each way."""

    engine: list[torch.Tensor]
    reference: list[torch.Tensor]


@torch.no_grad()
def main() -> None:
    """Prints accuracies and times."""
    classifier = DefendedClassifier.bundled()
    images = find_dataset("bundled").take(classifier.preprocess, PICTURES)
    chunks = (images.pixels.float() / 255).split(CHUNK)
    system, last = countered(classifier), Answered([], [])

    def by_engine() -> None:
        last.engine[:] = [
            system.answer(x, seed=0, first_image=i * CHUNK).logits.argmax(1) for i, x in enumerate(chunks)
        ]

    def by_reference() -> None:
        last.reference.clear()
        for i, x in enumerate(chunks):
            noise = draw_noise(seeded(0, i * CHUNK, len(x), x.device), x.shape, classifier.config)
            found = counterattack(classifier.image_tower, x, noise, classifier.config)
            last.reference.append(classifier._head(found.embedding, "naive").argmax(1))

    work = {"engine": by_engine, "reference": by_reference}
    measured = list(rounds(work, ROUNDS))
    for name, labels in last._asdict().items():
        found = shares.share((torch.cat(labels) == images.labels).numpy())
        seconds = statistics.median(taken[name] for taken in measured)
        print(f"{name}: {found.mean:.1%} +- {found.standard_error:.1%} right, {seconds:.2f} s")
    same = (torch.cat(last.engine) == torch.cat(last.reference)).float().mean().item()
    times = ratio(*([taken[name] for taken in measured] for name in ("reference", "engine")))
    print(f"same answers {same:.1%}; the engine is {times} times as fast")


if __name__ == "__main__":
    main()
