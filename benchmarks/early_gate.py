"""What gates between two blocks tell and cost: `python benchmarks/early_gate.py OUT.json [CIFAR10]`, an hour.

First the bundled models. Agreement of x with its 3x3 blur, by the class token and by the mean of the patches
after each block, and by the embeddings: AUROC of PGD-10 on the undefended model. Then both thresholds of the
gate in two steps, set on 500 pictures clean and attacked at 2/255: what it decides for the 1000 pictures on
which figures are reported, beside what the embeddings alone decide. The block is the one that the 500 make
cheapest. Both gates are attacked themselves, past them with f(x) turned: 100 pictures at 2/255, 40 steps.
CIFAR10: the folder for the model of photographs; without it that model is left out.

Then ViT-B/32 with random weights, batch 8, float32, with as many images that pass early and that are
countered as of the drawn model's clean pictures: time over the undefended floor, in turns with the gate that
embeds every picture twice.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from clipfast import CounterattackConfig, DefendedClassifier
from clipfast.attacks import make
from clipfast.attacks.levels import level
from clipfast.attacks.pgd10 import attack_in_chunks
from clipfast.attacks.system import undefended
from clipfast.bench.environment import environment
from clipfast.bench.scenario import make_tower
from clipfast.calibration.separation import separation
from clipfast.calibration.threshold import Measured, expected_passes, threshold_early, threshold_for_rate
from clipfast.defence.engine import Engine
from clipfast.encoders import make_encoder
from clipfast.evaluation.datasets import Dataset, find_dataset
from clipfast.evaluation.defences import systems
from clipfast.files import write_text
from clipfast.inputs.noise import Noise
from clipfast.measurement.interleave import ratio, rounds

REPORTED, DEVELOPMENT, RATE, CHUNK = 1000, 500, 0.05, 50
LEVELS = (1 / 255, 2 / 255, 4 / 255)
BEFORE = 2 / 255  # the thresholds are set on pictures attacked at
ATTACKED, STEPS = 100, 40
GATE = CounterattackConfig(gate="agreement", steps=0, pass_through="clean", tau_threshold=0.0)
MODEL, BATCH, ROUNDS = "ViT-B-32", 8, 9
CPU = torch.device("cpu")

_console = Console(stderr=True)


class Sides(NamedTuple):
    """Pictures clean, and attacked at each level: float32 [N, 3, H, W]."""

    clean: Tensor
    attacked: dict[float, Tensor]


def sides(classifier: DefendedClassifier, dataset: Dataset, images: int, after: int) -> Sides:
    """The pictures after the first `after`, and the same under PGD-10."""
    found = dataset.take(classifier.preprocess, images, after=after)
    x, plain = found.pixels.float() / 255, undefended(classifier)
    attacked = {}
    for eps in LEVELS:
        _console.print(f"attacking {images} pictures at {level(eps)}")
        attacked[eps] = attack_in_chunks(plain, x, found.labels, eps=eps, chunk=CHUNK)
    return Sides(x, attacked)


def measure(classifier: DefendedClassifier, config: CounterattackConfig, x: Tensor) -> NDArray[np.float32]:
    """What a gate measures: [N]."""
    defended = classifier.with_config(config, on_trial=True)
    return torch.cat([defended.predict(part, seed=0).drift for part in x.split(CHUNK)]).numpy()


def aurocs(classifier: DefendedClassifier, pictures: Sides) -> dict[str, dict[str, float]]:
    """By what is read, at each level."""
    blocks = classifier.measuring_tower.blocks
    gates = {
        f"{tokens} after block {depth}": dataclasses.replace(GATE, gate_depth=depth, gate_tokens=tokens)
        for tokens in ("class", "mean")
        for depth in range(1, blocks)
    }
    rows = {}
    for name, config in {**gates, "embedding": GATE}.items():
        clean = measure(classifier, config, pictures.clean)
        rows[name] = {
            level(eps): separation(clean, measure(classifier, config, x)).auroc
            for eps, x in pictures.attacked.items()
        }
        _console.print(name, rows[name])
    return rows


def in_two_steps(classifier: DefendedClassifier, pictures: Sides) -> CounterattackConfig:
    """The cheapest block, with both thresholds set."""
    blocks = classifier.measuring_tower.blocks
    whole = [measure(classifier, GATE, x) for x in (pictures.clean, pictures.attacked[BEFORE])]
    tau, found = threshold_for_rate(whole[0], RATE), {}
    for tokens in ("class", "mean"):
        for depth in range(1, blocks):
            read = dataclasses.replace(GATE, gate_depth=depth, gate_tokens=tokens)
            both = [measure(classifier, read, x) for x in (pictures.clean, pictures.attacked[BEFORE])]
            clean, attacked = (
                Measured(drift=drift, tokens=seen) for drift, seen in zip(whole, both, strict=True)
            )
            early = threshold_early(clean, attacked, tau)
            config = dataclasses.replace(read, tau_threshold=tau, early_threshold=early)
            share = float((both[0] >= np.float32(early)).mean())
            found[config] = expected_passes(config, 0.0, early=share, blocks=blocks).forward
            _console.print(f"{tokens} after block {depth}: {share:.1%} early, {found[config]:.2f} F")
    return min(found, key=lambda config: found[config])


def decided(
    classifier: DefendedClassifier, config: CounterattackConfig, pictures: Sides
) -> dict[str, dict[str, float]]:
    """What both gates do with pictures, clean and at each level: shares."""
    rows = {}
    for name, x in {"clean": pictures.clean, **{level(e): a for e, a in pictures.attacked.items()}}.items():
        whole = measure(classifier, GATE, x) < config.tau_threshold
        drift = measure(classifier, config, x)
        steps = drift < config.tau_threshold
        rows[name] = {
            "equal": float((whole == steps).mean()),
            "early": float(config.passed_early(drift).mean()),
            "countered": float(steps.mean()),
            "countered by embeddings": float(whole.mean()),
        }
        _console.print(name, rows[name])
    return rows


def kept_out(classifier: DefendedClassifier, config: CounterattackConfig, dataset: Dataset) -> dict[str, Any]:
    """How many of ATTACKED pictures an attacker who knows the gate does not get past it as another class."""
    images = dataset.take(classifier.preprocess, ATTACKED, after=REPORTED + DEVELOPMENT)
    x, labels, rows = images.pixels.float() / 255, images.labels, {}
    whole = dataclasses.replace(config, gate_depth=None, early_threshold=None)
    for name, gate in {"embeddings": whole, "in two steps": config}.items():
        system = systems.countered(classifier.with_config(gate, on_trial=True))
        attacked = make("gate-passed", steps=STEPS).run(system, x, labels, eps=BEFORE, seed=0)
        rows[name] = int((~attacked.broken).sum())
    _console.print("not past it:", rows)
    return {"pictures": ATTACKED, "steps": STEPS, "not past it": rows}


def of_model(classifier: DefendedClassifier, dataset: Dataset) -> dict[str, Any]:
    """All figures of a bundled model."""
    development, reported = (
        sides(classifier, dataset, images, after)
        for images, after in ((DEVELOPMENT, REPORTED), (REPORTED, 0))
    )
    config = in_two_steps(classifier, development)
    return {
        "auroc": aurocs(classifier, reported),
        "config": json.loads(config.to_json()),
        "decided": decided(classifier, config, reported),
        "attacked": kept_out(classifier, config, dataset),
    }


def costs(early: float, countered: float, depth: float) -> dict[str, float]:
    """Median times over the floor, of shares of images; depth: a share of the blocks."""
    tower = make_tower(MODEL, CPU)
    pixels = torch.rand(BATCH, 3, *tower.image_size, generator=torch.Generator().manual_seed(0))
    encoder, noise = make_encoder(tower), Noise(torch.zeros_like(pixels))
    make = partial(Engine, encoder, image_size=tower.image_size, device=CPU)
    read = dataclasses.replace(GATE, gate_depth=round(depth * tower.blocks))
    drifts = [make(config).run(pixels, noise).drift.numpy() for config in (read, GATE)]
    passing, held = round(early * BATCH), round(countered * BATCH)
    steps = dataclasses.replace(
        read,
        early_threshold=float(np.sort(drifts[0])[BATCH - passing]) if passing else 1.0,
        tau_threshold=float(np.sort(drifts[1])[held]),
    )
    whole = dataclasses.replace(GATE, tau_threshold=steps.tau_threshold)
    engines = {"in two steps": make(steps), "embeddings": make(whole)}
    columns = {
        "floor": partial(engines["embeddings"].embed, pixels),
        **{name: partial(engine.run, pixels, noise, with_delta=False) for name, engine in engines.items()},
    }
    taken = list(rounds(columns, ROUNDS))
    floor = [seconds["floor"] for seconds in taken]
    return {name: ratio([seconds[name] for seconds in taken], floor).median for name in columns}


def main() -> None:
    """Prints and writes the figures."""
    models = {"drawn": find_dataset("drawn")}
    if len(sys.argv) > 2:
        models["photographs"] = find_dataset("cifar10", root=Path(sys.argv[2]))
    result: dict[str, Any] = {"environment": environment(CPU), "reported": REPORTED}
    for name, dataset in models.items():
        classifier = DefendedClassifier.bundled(name, dataset.classnames)  # pyright: ignore[reportArgumentType]
        result[name] = of_model(classifier, dataset)
    found = result["drawn"]
    clean, blocks = found["decided"]["clean"], DefendedClassifier.bundled().measuring_tower.blocks
    result["cost"] = costs(clean["early"], clean["countered"], found["config"]["gate_depth"] / blocks)
    print(json.dumps(result, indent=1))
    write_text(Path(sys.argv[1]), json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
