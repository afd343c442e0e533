"""Forward products of ViT-B/32's MLP by each form that this machine has, over twelve weights, as in a tower.

`pytest benchmarks/test_products.py`: a round runs every form, in an order drawn anew; GFLOP/s are in the
extra info, and printed.
"""

from __future__ import annotations

import itertools
import statistics

import pytest
import torch

from clipfast.encoders.linear import product_forms
from clipfast.measurement.interleave import rounds

WEIGHTS, ROUNDS = 12, 9
FORMS = {dtype: product_forms(dtype) for dtype in (torch.float32, torch.bfloat16)}


@pytest.mark.parametrize("rows", [50, 100, 400, 800])
@pytest.mark.parametrize(("columns", "out"), [(768, 3072), (3072, 768)])
@pytest.mark.parametrize("dtype", FORMS, ids=str)
def test_products(benchmark, dtype, columns, out, rows):
    x, g = torch.randn(rows, columns).to(dtype), torch.randn(rows, out).to(dtype)
    weights = [(0.03 * torch.randn(out, columns)).to(dtype) for _ in range(WEIGHTS)]
    work = {}
    expected = x.double() @ weights[0].double().T
    for form in FORMS[dtype]:
        pairs = [form.pair(weight, None) for weight in weights]
        assert (pairs[0][0](x) - expected).abs().max() < 2e-2 * expected.abs().max()
        for direction, operand in enumerate((x, g)):
            products = itertools.cycle([pair[direction] for pair in pairs])
            name = f"{form.__name__} {('forward', 'backward')[direction]}"
            work[name] = lambda products=products, operand=operand: [
                next(products)(operand) for _ in range(WEIGHTS)
            ]
    measured = list(rounds(work, ROUNDS))
    flop = 2 * rows * columns * out * WEIGHTS / 1e9
    figures = {name: round(flop / statistics.median(r[name] for r in measured)) for name in work}
    benchmark.extra_info["gflops"] = figures
    print(dtype, columns, out, rows, figures)
    benchmark.pedantic(next(iter(work.values())), rounds=3)
