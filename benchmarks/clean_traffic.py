"""What the recommended settings cost on clean traffic: `python benchmarks/clean_traffic.py OUT.json`.

ViT-B/32 with random weights, batches of 8 and of 1, float32, one in twenty images countered: batches of which
none is countered and such of which one is, weighed. Time over the undefended floor, the same encoder's own
pass; columns take turns. A few minutes on an idle machine.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from clipfast import CounterattackConfig
from clipfast.bench.environment import environment
from clipfast.bench.scenario import make_tower
from clipfast.defence.engine import Engine
from clipfast.encoders import make_encoder
from clipfast.files import write_text
from clipfast.inputs.noise import Noise
from clipfast.measurement.interleave import ratio, rounds
from clipfast.models.tower import ImageTower

MODEL, COUNTERED, ROUNDS = "ViT-B-32", 0.05, 9
CPU = torch.device("cpu")


@torch.no_grad()
def split(tower: ImageTower, config: CounterattackConfig, pixels: Tensor) -> CounterattackConfig:
    """Settings whose gate counters exactly the first image of these pixels."""
    engine = Engine(make_encoder(tower), config, image_size=tower.image_size, device=CPU)
    drift = engine.run(pixels, Noise(torch.zeros_like(pixels))).drift
    order = drift.argsort()
    pixels[:] = pixels[order]
    return dataclasses.replace(config, tau_threshold=drift[order[:2]].mean().item())


def measured(tower: ImageTower, config: CounterattackConfig, batch: int) -> dict[str, float]:
    """Median times over the floor: of a batch with none countered, with one, and the mean of the traffic."""
    pixels = torch.rand(max(batch, 2), 3, *tower.image_size, generator=torch.Generator().manual_seed(batch))
    some = split(tower, config, pixels)
    pixels = pixels[:batch]
    noise = Noise(torch.zeros_like(pixels))
    encoder = make_encoder(tower)
    make = partial(Engine, encoder, image_size=tower.image_size, device=CPU)
    none = make(dataclasses.replace(config, tau_threshold=0.0))
    one = make(some)
    assert not none.run(pixels, noise).countered.any()
    assert one.run(pixels, noise).countered.sum() == 1
    columns = {
        "floor": partial(one.embed, pixels),
        "none": partial(none.run, pixels, noise),
        "one": partial(one.run, pixels, noise),
    }
    seconds = list(rounds(columns, ROUNDS))
    floor = [taken["floor"] for taken in seconds]
    cost = {name: ratio([taken[name] for taken in seconds], floor).median for name in ("none", "one")}
    share = COUNTERED * batch  # of batches that have one
    return {**cost, "traffic": (1 - share) * cost["none"] + share * cost["one"]}


def main() -> None:
    """Prints and writes the figures."""
    tower, config = make_tower(MODEL, CPU), CounterattackConfig.recommended()
    result = {
        "environment": environment(CPU),
        "model": MODEL,
        "countered": COUNTERED,
        "config": json.loads(config.to_json()),
        "cost": {str(batch): measured(tower, config, batch) for batch in (1, 8)},
    }
    print(json.dumps(result["cost"], indent=1))
    write_text(Path(sys.argv[1]), json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
