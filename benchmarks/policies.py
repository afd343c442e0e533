"""Measures what the engine's constants rest on: chunk size, double batches, gathering saved activations.

`python benchmarks/policies.py OUT.json`, ViT-B/32 on an idle machine; a few minutes.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from clipfast.bench.columns import Towers
from clipfast.bench.environment import environment
from clipfast.bench.scenario import GatedImages, make_images, make_tower, published_noise
from clipfast.encoders import Encoder, Saved
from clipfast.files import write_text
from clipfast.measurement.interleave import rounds

ROUNDS = 5
CPU = torch.device("cpu")


def medians(columns: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Milliseconds."""
    measured = list(rounds(columns, ROUNDS))
    return {name: statistics.median(seconds[name] for seconds in measured) * 1e3 for name in columns}


def one_after_the_other(encoder: Encoder, base: Tensor, d: Tensor) -> None:
    """f(x) without saving, then f(x + d) with."""
    encoder.embed(base)
    encoder.forward(base, d)


def gather_one_row(saved: Saved) -> None:
    """What countering one image of a chunk costs before its first step."""
    row = torch.tensor([0])
    for tensor in saved:
        tensor.index_select(0, row)


def chunk_sizes(towers: Towers, images: GatedImages, precision: str) -> dict[str, Callable[[], object]]:
    """The same batch in chunks of several sizes."""
    columns: dict[str, Callable[[], object]] = {}
    for chunk in (2, 4, 8, 16, 32):
        engine = towers.engine(precision, images.config)
        engine.chunk = chunk
        columns[f"chunk {chunk}"] = partial(
            engine.run, images.pixels, published_noise(images.pixels, images.config)
        )
    return columns


def probes(encoder: Encoder, images: GatedImages, n: int) -> dict[str, Callable[[], object]]:
    """Both orders of a probe, and both ways to an image's activations."""
    base = encoder.project(encoder.to_layout(images.pixels[:n]))
    d = encoder.to_layout(published_noise(images.pixels[:n], images.config))
    return {
        "double batch": partial(encoder.forward_pair, base, d),
        "one after the other": partial(one_after_the_other, encoder, base, d),
        "gather one row": partial(gather_one_row, encoder.forward(base, d)[1]),
        "run one row again": partial(encoder.forward, base[:1], d[:1]),
    }


@torch.no_grad()
def main(out: Path) -> None:
    """Prints each table and writes all of them."""
    torch.set_num_threads(2)
    towers = Towers(make_tower("ViT-B-32", CPU), compile=False, precisions=("fp32", "bf16"))
    images = make_images(towers.eager, 32, 32)
    tables: dict[str, dict[str, float]] = {}
    for precision in towers.precisions:
        name = f"32 images, all countered, {precision}"
        tables[name] = medians(chunk_sizes(towers, images, precision))
        encoder = towers.engine(precision, images.config).encoder
        for n in (1, 2, 4, 8):
            tables[f"{n} images, {precision}"] = medians(probes(encoder, images, n))
    for name, figures in tables.items():
        print(name, {column: round(value, 1) for column, value in figures.items()})
    write_text(out, json.dumps({"environment": environment(CPU), "milliseconds": tables}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
