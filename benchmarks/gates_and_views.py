"""What of a gate and of views falls by itself: `python benchmarks/gates_and_views.py OUT.json`, ten minutes.

On 50 of `benchmarks/pareto.py`'s development pictures, bundled model, l-inf 2/255, 20 steps: sets of views of
every picture, without a gate, attacked through their exact gradient; and gates that counter 5 % of 300 clean
pictures, attacked past them with f(x) turned, whatever stands behind.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch
from pareto import CORNERS, EPS, LARGER_EPS, RATE, REPORTED
from torch import Tensor

from clipfast import CounterattackConfig, DefendedClassifier
from clipfast.attacks import make
from clipfast.attacks.levels import level
from clipfast.attacks.system import System, undefended
from clipfast.calibration.threshold import threshold_for_rate
from clipfast.evaluation.datasets import find_dataset
from clipfast.evaluation.defences import systems
from clipfast.files import write_text

CALIBRATED_ON, AFTER, PICTURES, STEPS = 300, 1500, 50, 20
VIEWS = {
    "one Gaussian of 1.5": ("gaussian 1.5",),
    "mirror, corner": ("mirror", CORNERS[0]),
    "Gaussian of 1, corner": ("gaussian 1.0", CORNERS[0]),
    "two opposite corners": (CORNERS[0], CORNERS[3]),
    "four corners": CORNERS,
    "seven": ("identity", "mirror", *CORNERS, "crop 0.9 centre"),
}
GATES = ("blur", "gaussian 1.0", "crop 0.9 centre", "mirror", "low_pass 15.0")


def right(system: System, pixels: Tensor, labels: Tensor) -> Tensor:
    """bool [N]."""
    with torch.no_grad():
        return system.answer(pixels, seed=0).logits.argmax(dim=1) == labels


def main() -> None:
    """Prints and writes how many of the pictures stay right."""
    dataset = find_dataset("drawn")
    classifier = DefendedClassifier.bundled(classnames=dataset.classnames)
    clean = dataset.take(classifier.preprocess, CALIBRATED_ON, after=REPORTED).pixels
    images = dataset.take(classifier.preprocess, PICTURES, after=AFTER)
    x, labels = images.pixels.float() / 255, images.labels
    plain = undefended(classifier)
    transferred = {
        level(eps): make("pgd-10").run(plain, x, labels, eps=eps, seed=0).pixels for eps in (EPS, LARGER_EPS)
    }
    config = CounterattackConfig(gate="agreement", steps=0, pass_through="clean")
    rows: list[dict[str, Any]] = []
    for name, views in VIEWS.items():
        changed = dataclasses.replace(config, views=views)
        system = systems.viewed(classifier.with_config(changed, on_trial=True))
        attacked = make("bpda", steps=STEPS).run(system, x, labels, eps=EPS, seed=0)
        row = {"views": name, "passes": len(views), "clean": int(right(system, x, labels).sum())}
        row |= {f"PGD-10 {at}": int(right(system, p, labels).sum()) for at, p in transferred.items()}
        rows.append(
            row | {"adaptive": int((right(system, attacked.pixels, labels) & ~attacked.broken).sum())}
        )
        print(rows[-1], flush=True)
    for transform in GATES:
        changed = dataclasses.replace(config, transform=transform)
        drift = classifier.with_config(changed, on_trial=True).predict(clean, seed=0).drift
        changed = dataclasses.replace(changed, tau_threshold=threshold_for_rate(drift.numpy(), RATE))
        system = systems.countered(classifier.with_config(changed, on_trial=True))
        attacked = make("gate-passed", steps=STEPS).run(system, x, labels, eps=EPS, seed=0)
        rows.append({"gate": transform, "not past it": int((~attacked.broken).sum())})
        print(rows[-1], flush=True)
    result = {
        "pictures": PICTURES,
        "eps": level(EPS),
        "steps": STEPS,
        "torch": torch.__version__,
        "rows": rows,
    }
    write_text(Path(sys.argv[1]), json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
