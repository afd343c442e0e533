from __future__ import annotations

import pytest
import torch

from clipfast.defence.precision import available, dtype_of
from clipfast.encoders import linear
from clipfast.encoders.linear import (
    Choice,
    Forms,
    FrozenLinear,
    PlainProduct,
    Product,
    first_choice,
    product_forms,
)

PRECISIONS = available(torch.device("cpu"))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rows", [1, 5, 123])
def test_both_directions_are_the_products(precision, rows):
    dtype, tolerance = dtype_of(precision), {"fp32": 1e-5, "bf16": 1e-2, "fp16": 2e-3}[precision]
    weight, bias = torch.randn(96, 40), torch.randn(96)
    x, g = torch.randn(rows, 3, 40), torch.randn(rows, 3, 96)
    split_by_rows = Choice(Forms(PlainProduct, PlainProduct), first_choice(dtype).many, 3)
    for choice in (None, first_choice(dtype), split_by_rows):
        layer = FrozenLinear(weight, bias, dtype, choice)
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
    layer = FrozenLinear(torch.randn(8, 4), None, torch.float32, first_choice(torch.float32))
    assert len(linear._products) == before + 2
    del layer
    assert len(linear._products) == before


def test_few_rows_and_many_take_forms_of_their_own():
    class Marked(PlainProduct):
        def __call__(self, x):
            return super().__call__(x) + (2000 if self.transposed else 1000)

    weight = torch.randn(6, 4)
    plain = Forms(PlainProduct, PlainProduct)
    for forms, marked in ((Forms(Marked, PlainProduct), (1000, 0)), (Forms(PlainProduct, Marked), (0, 2000))):
        layer = FrozenLinear(weight, None, torch.float32, Choice(forms, plain, 3))
        for shape, few in (((3,), True), ((3, 1), True), ((4,), False), ((2, 2), False)):
            x, g = torch.randn(*shape, 4), torch.randn(*shape, 6)
            torch.testing.assert_close(layer(x), x @ weight.T + few * marked[0])
            torch.testing.assert_close(layer.input_gradient(g), g @ weight + few * marked[1])


@pytest.mark.parametrize("form", product_forms(torch.float32), ids=lambda form: form.name)
def test_a_gradient_s_product_alone_is_that_of_the_pair(form: type[Product]):
    weight, g = torch.randn(96, 40), torch.randn(5, 96)
    assert torch.equal(form.gradient_of(weight)(g), form.pair(weight, None)[1](g))
