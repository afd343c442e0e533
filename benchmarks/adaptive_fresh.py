"""What attackers who know them leave of plain CLIP and of the recommended settings, on fresh pictures.

`OMP_NUM_THREADS=1 python benchmarks/adaptive_fresh.py I/N`, one of N parts of the first pictures that
`clipfast eval` draws; some minutes each. PGD through the exact gradient, then APGD on what is left: 2/255,
100 steps, one start. Fewer attacks than the budget `full` has, so that the figures are upper bounds.
"""

from __future__ import annotations

import sys

import torch

from clipfast import DefendedClassifier
from clipfast.attacks import make
from clipfast.attacks.system import undefended
from clipfast.evaluation.datasets import find_dataset
from clipfast.evaluation.defences.systems import countered
from clipfast.evaluation.runner import parse_shard

PICTURES, CHUNK, EPS = 200, 25, 2 / 255


def main() -> None:
    """Prints how many pictures are right clean, and after each attack."""
    dataset, (index, parts) = find_dataset("drawn"), parse_shard(sys.argv[1])
    classifier = DefendedClassifier.bundled(classnames=dataset.classnames)
    images = dataset.take(classifier.preprocess, PICTURES)
    size = PICTURES // parts
    part = slice(size * index, size * (index + 1))
    x, labels = images.pixels[part].float() / 255, images.labels[part]
    for system in (undefended(classifier), countered(classifier, "recommended")):
        left = system.logits(x).argmax(dim=1) == labels
        print(system.name, "clean", int(left.sum()), "of", len(x), flush=True)
        for name in ("bpda", "apgd-eot"):
            attack = make(name, steps=100, samples=1)
            for rows in left.nonzero().flatten().split(CHUNK):
                made = attack.run(system, x[rows], labels[rows], eps=EPS, seed=0)
                right = system.logits(made.pixels).argmax(dim=1) == labels[rows]
                left[rows] &= right & ~made.broken
            print(system.name, name, int(left.sum()), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
