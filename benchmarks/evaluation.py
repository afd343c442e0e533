"""What the engine saves an evaluation: `python benchmarks/evaluation.py`, bundled model, a minute or two.

TTC on clean pictures, through the engine and through `clipfast.reference` as published, in the chunks of
`clipfast eval`; the two take turns on the same noise. Accuracy with its standard error, and times.
"""

from __future__ import annotations

import statistics

import torch

from clipfast import DefendedClassifier
from clipfast.evaluation.datasets import find_dataset
from clipfast.evaluation.defences.systems import countered
from clipfast.inputs.draws import draw_noise, seeded
from clipfast.measurement import statistics as shares
from clipfast.measurement.interleave import ratio, rounds
from clipfast.reference import counterattack

PICTURES, CHUNK, ROUNDS = 200, 50, 5


@torch.no_grad()
def main() -> None:
    """Prints accuracies and times."""
    classifier = DefendedClassifier.bundled()
    images = find_dataset("drawn").take(classifier.preprocess, PICTURES)
    chunks = (images.pixels.float() / 255).split(CHUNK)
    system = countered(classifier)

    def by_engine() -> torch.Tensor:
        answers = [system.answer(x, seed=0, first_image=i * CHUNK) for i, x in enumerate(chunks)]
        return torch.cat([answer.logits for answer in answers]).argmax(dim=1)

    def by_reference() -> torch.Tensor:
        found = []
        for i, x in enumerate(chunks):
            noise = draw_noise(seeded(0, i * CHUNK, len(x), x.device), x.shape, classifier.config)
            embedding = counterattack(classifier.image_tower, x, noise, classifier.config).embedding
            found.append(classifier._head(embedding, "naive"))
        return torch.cat(found).argmax(dim=1)

    work = {"engine": by_engine, "reference": by_reference}
    measured = list(rounds(work, ROUNDS))
    labels = {name: answered() for name, answered in work.items()}
    for name, found in labels.items():
        right = shares.share((found == images.labels).numpy())
        seconds = statistics.median(taken[name] for taken in measured)
        print(f"{name}: {right.mean:.1%} +- {right.standard_error:.1%} right, {seconds:.2f} s")
    same = (labels["engine"] == labels["reference"]).float().mean().item()
    times = ratio(*([taken[name] for taken in measured] for name in ("reference", "engine")))
    print(
        f"same answers {same:.1%}; the engine is {times.median:.2f} times as fast "
        f"({times.low:.2f} to {times.high:.2f})"
    )


if __name__ == "__main__":
    main()
