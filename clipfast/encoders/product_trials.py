"""Which products are the fastest on this machine for a tower's layers, with few rows and with many."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from ..measurement.trials import WORTH_IT, Trial, choose, keep, kept
from .linear import Choice, Forms, Product, product_forms

__all__ = ["Layer", "Tune", "check_tune", "choose_products"]

Tune = bool | str

# Seconds for each number of rows; no round begins after them, but for the least number of rounds.
_SECONDS, _ROUNDS, _LEAST = 0.25, 5, 3
# The share of the time of what is the best for all shapes, below which a shape takes a form of its own.
_OWN = 0.9


class Layer(NamedTuple):
    """A layer's weight [out, in] and its bias [out], if it has one."""

    weight: Tensor
    bias: Tensor | None


class _Shape(NamedTuple):
    """What a product's speed depends on, beside the machine."""

    columns: int  # of the input
    out: int
    gradient: bool  # whether it is the product with the transposed weight
    rows: int
    dtype: torch.dtype

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        direction = ", gradient" if self.gradient else ""
        return f"product {name} {self.columns} -> {self.out}, {self.rows} rows{direction}"


def check_tune(tune: Tune, dtype: torch.dtype) -> None:
    """Checks how forms are to be chosen.

    Args:
        tune: True or False; or the name of a form of products.
        dtype: Of the products' operands.

    Raises:
        InputError: If it is neither, or a form that is unknown or not right on this CPU.
    """
    names = [form.name for form in product_forms(dtype)]
    if not isinstance(tune, bool) and tune not in names:
        raise InputError(f"tune must be True, False or one of {', '.join(names)} here, got {tune!r}")


def choose_products(
    layers: Sequence[Layer], dtype: torch.dtype, *, few: int, many: int, tune: Tune
) -> dict[tuple[int, int], Choice]:
    """Chooses the forms of products for layers, by trials that take a second or two.

    Several layers of each shape are tried in turn, so that each finds its weight out of the caches, as in a
    tower.

    Args:
        layers: Layers of a tower, on the CPU.
        dtype: Of the products' operands.
        few: The number of rows of one image.
        many: The number of rows of a chunk.
        tune: Whether to try. False takes the first of `product_forms`; a name takes that form.

    Returns:
        The choice for each shape (out, in) of a weight.

    Raises:
        InputError: If the named form is unknown, or not right on this CPU.
    """
    forms = {form.name: form for form in product_forms(dtype)}
    first = next(iter(forms))
    check_tune(tune, dtype)
    shapes = {(layer.weight.shape[0], layer.weight.shape[1]) for layer in layers}
    if tune is not True or len(forms) == 1:
        return dict.fromkeys(shapes, Choice.of(forms[tune if isinstance(tune, str) else first]))
    for rows in (few, many):
        _try(layers, dtype, rows, forms)
    found, choices = kept(), {}
    for out, columns in shapes:
        chosen = {}
        for gradient in (False, True):
            sides = (out, columns) if gradient else (columns, out)
            of_many, of_few = (found[str(_Shape(*sides, gradient, rows, dtype))] for rows in (many, few))
            name = of_few.chosen
            # Two forms of one weight take twice its memory.
            if of_few.seconds[name] >= WORTH_IT * of_few.seconds[of_many.chosen]:
                name = of_many.chosen
            chosen[gradient] = forms[name], forms[of_many.chosen]
        few_forms, many_forms = (Forms(*pair) for pair in zip(chosen[False], chosen[True], strict=True))
        choices[out, columns] = Choice(few_forms, many_forms, int((few * many) ** 0.5))
    return choices


@torch.no_grad()
def _try(layers: Sequence[Layer], dtype: torch.dtype, rows: int, forms: dict[str, type[Product]]) -> None:
    """Times all forms of layers whose shapes were not tried yet."""
    known = kept()

    def shapes(layer: Layer) -> tuple[_Shape, _Shape]:
        out, columns = layer.weight.shape
        return _Shape(columns, out, False, rows, dtype), _Shape(out, columns, True, rows, dtype)

    def is_known(shape: _Shape) -> bool:
        trial = known.get(str(shape))
        return trial is not None and trial.seconds.keys() == forms.keys()

    layers = [layer for layer in layers if not all(map(is_known, shapes(layer)))]
    if not layers:
        return
    packed = {
        name: [
            form.pair(layer.weight.to(dtype), None if layer.bias is None else layer.bias.to(dtype))
            for layer in layers
        ]
        for name, form in forms.items()
    }
    generator = torch.Generator().manual_seed(0)
    inputs = {
        shape: torch.randn(rows, shape.columns, generator=generator).to(dtype)
        for layer in layers
        for shape in shapes(layer)
    }
    taken: dict[_Shape, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    order, shuffle, deadline = list(forms), random.Random(0).shuffle, time.perf_counter() + _SECONDS
    for turn in range(_ROUNDS + 1):
        if turn > _LEAST and time.perf_counter() > deadline:
            break
        shuffle(order)
        for name in order:
            for layer, products in zip(layers, packed[name], strict=True):
                for shape, product in zip(shapes(layer), products, strict=True):
                    start = time.perf_counter()
                    product(inputs[shape])
                    if turn:  # the first is a warm-up
                        taken[shape][name].append(time.perf_counter() - start)
    shortest = {shape: {name: min(by_form[name]) for name in forms} for shape, by_form in taken.items()}
    whole = {name: sum(times[name] for times in shortest.values()) for name in forms}
    best = choose(whole, next(iter(forms)))
    keep({str(s): Trial(choose(times, best, _OWN), times) for s, times in shortest.items()})
