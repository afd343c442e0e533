from __future__ import annotations

import pytest
import torch

from clipfast.defence.precision import available, dtype_of
from clipfast.encoders import linear
from clipfast.encoders.linear import FrozenLinear, PlainProduct, product_forms

PRECISIONS = available(torch.device("cpu"))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rows", [1, 5, 123])
def test_both_directions_are_the_products(precision, rows):
    dtype, tolerance = dtype_of(precision), {"fp32": 1e-5, "bf16": 1e-2, "fp16": 2e-3}[precision]
    weight, bias = torch.randn(96, 40), torch.randn(96)
    x, g = torch.randn(rows, 3, 40), torch.randn(rows, 3, 96)
    for pack in (False, True):
        layer = FrozenLinear(weight, bias, dtype, pack=pack)
        for got, expected in (
            (layer(x), x @ weight.T + bias),
            (layer.input_gradient(g), g @ weight),
        ):
            assert got.dtype == dtype
            assert (got.float() - expected).abs().max() < tolerance * expected.abs().max()


def test_a_form_that_is_missing_or_wrong_is_not_used(monkeypatch):
    for broken in (
        lambda *_: (_ for _ in ()).throw(NotImplementedError("no such operator")),
        lambda _, x: x.new_zeros(*x.shape[:-1], 96),
    ):
        product_forms.cache_clear()
        monkeypatch.setattr(linear.SplitProduct, "__call__", broken)
        monkeypatch.setattr(linear.MklProduct, "run", broken)
        monkeypatch.setattr(linear.OneDnnProduct, "run", broken)
        assert product_forms(torch.float32) == (PlainProduct,)
    monkeypatch.undo()
    product_forms.cache_clear()


def test_packed_products_are_freed_with_their_layer(monkeypatch):
    monkeypatch.setattr(linear, "product_forms", lambda _: (linear.MklProduct,))
    before = len(linear._products)
    layer = FrozenLinear(torch.randn(8, 4), None, torch.float32, pack=True)
    assert len(linear._products) == before + 2
    del layer
    assert len(linear._products) == before
