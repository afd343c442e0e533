"""What the recommended settings cost, whatever the traffic: `python benchmarks/clean_traffic.py OUT.json`.

ViT-B/32 with random weights, batches of 8 and of 1, float32: time over the undefended floor, the same
encoder's own pass, with plain CLIP's answer beside the defended one and without. Columns take turns. A few
minutes on an idle machine.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import torch

from clipfast import CounterattackConfig
from clipfast.bench.environment import environment
from clipfast.bench.scenario import make_tower
from clipfast.defence.engine import Engine
from clipfast.encoders import make_encoder
from clipfast.files import write_text
from clipfast.inputs.noise import Noise
from clipfast.measurement.interleave import ratio, rounds
from clipfast.models.tower import ImageTower

MODEL, ROUNDS = "ViT-B-32", 9
CPU = torch.device("cpu")


def measured(tower: ImageTower, config: CounterattackConfig, batch: int) -> dict[str, float]:
    """Median times over the floor."""
    pixels = torch.rand(batch, 3, *tower.image_size, generator=torch.Generator().manual_seed(batch))
    engine = Engine(make_encoder(tower), config, image_size=tower.image_size, device=CPU)
    run = partial(engine.run, pixels, Noise(torch.zeros_like(pixels)), with_delta=False)
    columns = {
        "floor": partial(engine.embed, pixels),
        "defended": run,
        "with plain CLIP": partial(run, with_clean=True),
    }
    seconds = list(rounds(columns, ROUNDS))
    floor = [taken["floor"] for taken in seconds]
    return {name: ratio([taken[name] for taken in seconds], floor).median for name in columns}


def main() -> None:
    """Prints and writes the figures."""
    tower, config = make_tower(MODEL, CPU), CounterattackConfig.recommended()
    result = {
        "environment": environment(CPU),
        "model": MODEL,
        "config": json.loads(config.to_json()),
        "cost": {str(batch): measured(tower, config, batch) for batch in (1, 8)},
    }
    print(json.dumps(result["cost"], indent=1))
    write_text(Path(sys.argv[1]), json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
