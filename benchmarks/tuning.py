"""Forms chosen by trials beside each form by itself: `python benchmarks/tuning.py OUT.json`, eight minutes.

ViT-B/32 with random weights, float32, batches of 1 and 8, none and all countered; first on the machine as it
is, then while another process keeps one core busy. Each regime tries the forms anew. Columns take turns.
Figures: the time of the trials; time of the chosen forms over that of the fastest single form; and over
open_clip's undefended eager pass.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from clipfast import CounterattackConfig
from clipfast.bench.busy import one_core_busy
from clipfast.bench.environment import environment
from clipfast.bench.scenario import make_tower
from clipfast.defence.engine import Engine
from clipfast.encoders import make_encoder
from clipfast.encoders.linear import product_forms
from clipfast.files import write_text
from clipfast.inputs.noise import Noise
from clipfast.measurement import trials
from clipfast.measurement.interleave import ratio, rounds
from clipfast.models.tower import ImageTower

MODEL, ROUNDS = "ViT-B-32", 5
CPU = torch.device("cpu")


def engines(tower: ImageTower, config: CounterattackConfig) -> tuple[dict[str, Engine], float]:
    """The engine as it is chosen, and one for each form; and the seconds that trials took."""
    make = partial(Engine, config=config, image_size=tower.image_size, device=CPU)
    start = time.perf_counter()
    made = {"untuned": make(make_encoder(tower, tune=False))}
    packing = time.perf_counter() - start
    trials._trials.clear()
    start = time.perf_counter()
    made["chosen"] = make(make_encoder(tower))
    taken = time.perf_counter() - start - packing
    for form in product_forms(torch.float32):
        made[form.name] = make(make_encoder(tower, tune=form.name))
    return made, taken


def measured(tower: ImageTower, batch: int, countered: bool, made: dict[str, Engine]) -> dict[str, Any]:
    """Ratios of median times, by column."""
    pixels = torch.rand(batch, 3, *tower.image_size, generator=torch.Generator().manual_seed(batch))
    noise = Noise(torch.zeros_like(pixels).uniform_(-4 / 255, 4 / 255))

    @torch.no_grad()
    def floor() -> torch.Tensor:
        return tower(pixels)

    columns: dict[str, Callable[[], object]] = {"open_clip": floor}
    for name, engine in made.items():
        engine.schedule.threshold.fill_(1e9 if countered else 0.0)
        columns[name] = partial(engine.run, pixels, noise, with_delta=False)
    seconds = list(rounds(columns, ROUNDS))
    by_name = {name: [taken[name] for taken in seconds] for name in columns}
    singles = [form.name for form in product_forms(torch.float32)]
    over_floor = {name: ratio(by_name[name], by_name["open_clip"]).median for name in by_name}
    best = min(singles, key=over_floor.__getitem__)
    return {
        "over open_clip": over_floor,
        "best single form": best,
        "speed of the chosen over the best": ratio(by_name[best], by_name["chosen"]).median,
        "milliseconds": {name: 1e3 * sorted(taken)[len(taken) // 2] for name, taken in by_name.items()},
    }


def main() -> None:
    """Prints and writes the figures."""
    tower = make_tower(MODEL, CPU)
    result: dict[str, Any] = {"model": MODEL, "environment": environment(CPU)}
    for busy in (False, True):
        with one_core_busy() if busy else contextlib.nullcontext():
            made, taken = engines(tower, CounterattackConfig())
            rows = {
                f"batch {batch}, {'all' if countered else 'none'} countered": measured(
                    tower, batch, countered, made
                )
                for batch in (1, 8)
                for countered in (False, True)
            }
            chosen = {what: trial.chosen for what, trial in trials.kept().items()}
        result["one core busy" if busy else "idle"] = {"trials, seconds": taken, "chosen": chosen, **rows}
        print(json.dumps(result["one core busy" if busy else "idle"], indent=1), flush=True)
    write_text(Path(sys.argv[1]), json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
