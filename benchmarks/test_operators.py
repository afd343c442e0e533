"""Each operator's forms against each other and against a copy: `pytest -s benchmarks/test_operators.py`.

224 px in patches of 32, embeddings of 512, 1000 classes; on a GPU where there is one, as CUDA graphs. A round
runs every form and a copy of 64 MB, in an order drawn anew. `share` is the bytes that a form must read and
write at least, by its time, over the copy's rate: above 1 where a cache holds what the copy fetches from
memory. Figures are in the extra info, and printed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from clipfast import ops
from clipfast.defence.cuda_graphs import CudaGraph
from clipfast.measurement.interleave import rounds

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROUNDS, REPEATS = 31, 10
EPS, STEP = 4 / 255, 1 / 255
COPIED = 1 << 26


def operands(batch: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(batch, 3, 224, 224, generator=generator)
    noise = (2 * torch.rand(pixels.shape, generator=generator) - 1) * EPS
    x, d = ops.perturb(pixels, noise, eps=EPS, patch=(32, 32))
    clean = torch.randn(batch, 512, generator=generator)
    tensors = {
        "pixels": pixels,
        "bytes": (pixels * 255).byte(),
        "noise": noise,
        "seeds": torch.arange(batch),
        "images": torch.arange(batch),
        "x": x,
        "d": d,
        "gradient": torch.randn(x.shape, generator=generator),
        "total": d / 2,
        "scale": torch.rand(batch, generator=generator),
        "clean": clean,
        "noisy": clean + 0.1 * torch.randn(clean.shape, generator=generator),
        "threshold": torch.tensor(0.1),
        "class_weights": torch.randn(512, 1000, generator=generator),
        "logit_scale": torch.tensor(100.0),
    }
    return {name: tensor.to(DEVICE) for name, tensor in tensors.items()}


STEPPING = {"weight_before": 0.1, "weight": 0.2, "eps": EPS, "step_size": STEP}
STARTING = {"eps": EPS, "patch": (32, 32)}
DRAWN = {"seeds": "seeds", "images": "images"}
# Operator, names of its tensors, options.
CASES: dict[str, tuple[Callable[..., Any], list[str], dict[str, str], dict[str, Any]]] = {
    "perturb, noise given": (ops.perturb, ["pixels", "noise"], {}, STARTING),
    "perturb, noise given, uint8": (ops.perturb, ["bytes", "noise"], {}, STARTING),
    "perturb, noise drawn": (ops.perturb, ["pixels"], DRAWN, STARTING),
    "perturb, noise drawn, l2": (ops.perturb, ["pixels"], DRAWN, {**STARTING, "norm": "l2"}),
    "drift_gate": (ops.drift_gate, ["clean", "noisy", "threshold"], {}, {}),
    "cotangent": (ops.cotangent, ["noisy", "clean"], {}, {}),
    "ascend, first step": (ops.ascend, ["x", "d", "gradient"], {}, STEPPING),
    "ascend, a step between": (ops.ascend, ["x", "d", "gradient", "total"], {}, STEPPING),
    "ascend, last step": (ops.ascend, ["x", "d", "gradient", "total"], {}, {**STEPPING, "last": True}),
    "ascend, a step between, l2": (
        ops.ascend, ["x", "d", "gradient", "total", "scale"], {}, {**STEPPING, "norm": "l2"},
    ),
    "zero_shot_head": (ops.zero_shot_head, ["noisy", "class_weights", "logit_scale"], {}, {}),
}  # fmt: skip


def repeated(run: Callable[[], Any]) -> Callable[[], object]:
    """REPEATS calls, on a GPU as one graph, so that no launch is waited for."""

    def calls() -> tuple[Tensor, ...]:
        result: Any = ()
        for _ in range(REPEATS):
            result = run()  # frees the one before, as in a loop of steps
        return result if isinstance(result, tuple) else (result,)

    return CudaGraph(calls, ()).replay if DEVICE.type == "cuda" else calls


@pytest.mark.parametrize("batch", [1, 8, 64] if DEVICE.type == "cpu" else [1, 8, 64, 256])
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_operators(benchmark, name, batch):
    operator, positional, keywords, options = CASES[name]
    tensors = operands(batch)
    given = [tensors[key] for key in positional]
    named = {key: tensors[value] for key, value in keywords.items()}
    form = ops.implementations().active[DEVICE.type]
    naive = partial(operator, **options, implementation="naive")
    torch.compiler.reset()
    runs = {
        form: partial(operator, *given, **named, **options, implementation=form),
        "naive": partial(naive, *given, **named),
        "naive compiled": partial(torch.compile(naive, dynamic=False), *given, **named),
    }
    source = torch.ones(COPIED // 4, device=DEVICE)
    target = torch.zeros_like(source)
    runs["copy"] = partial(target.copy_, source)
    results = runs[form]()
    results = results if isinstance(results, tuple) else (results,)
    moved = sum(tensor.nbytes for tensor in (*given, *named.values(), *results))
    work = {key: repeated(run) for key, run in runs.items()}
    measured = list(rounds(work, ROUNDS))
    seconds = {key: statistics.median(each[key] for each in measured) / REPEATS for key in work}
    rate = 2 * COPIED / seconds["copy"]
    figures = {
        "microseconds": {key: round(1e6 * value, 1) for key, value in seconds.items()},
        "over naive": round(statistics.median(each["naive"] / each[form] for each in measured), 2),
        "over naive compiled": round(
            statistics.median(each["naive compiled"] / each[form] for each in measured), 2
        ),
        "MB": round(moved / 1e6, 2),
        "share": round(moved / seconds[form] / rate, 2),
    }
    benchmark.extra_info |= figures
    print(f"{name}, batch {batch}, {form}: {figures}")
    benchmark.pedantic(work[form], rounds=3)
