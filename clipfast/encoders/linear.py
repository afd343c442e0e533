"""Frozen linear layers in both directions, by the fastest products of the machine.

The packed forms call operators that PyTorch keeps private (Inductor's own). A plain form replaces them
where they are missing.
"""

from __future__ import annotations

import copy
import functools
import itertools
import weakref
from abc import ABC, abstractmethod
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import torch_private
from ..ops import split_linear, to_blocks
from ..ops.native import why_not
from ..ops.registry import declare

__all__ = [
    "Choice",
    "Forms",
    "FrozenLinear",
    "PackedProduct",
    "PlainProduct",
    "Product",
    "SplitProduct",
    "first_choice",
    "product_forms",
]


class Product(ABC):
    """x [..., in] -> x @ weight.T (+ bias), with a weight that stays as it is.

    Args:
        weight: [out, in].
        bias: [out], or None.

    Attributes:
        name: What a user calls the form.
    """

    name: str

    @abstractmethod
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None: ...

    @classmethod
    def pair(cls, weight: Tensor, bias: Tensor | None) -> tuple[Self, Self]:
        """Makes the product and the product of its gradient, x [..., out] -> x @ weight.

        Args:
            weight: [out, in].
            bias: [out], or None; the gradient's product has none.
        """
        return cls(weight, bias), cls.gradient_of(weight)

    @classmethod
    def gradient_of(cls, weight: Tensor) -> Self:
        """Makes the product of the gradient alone, of a weight [out, in]."""
        return cls(weight.t(), None)

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Computes the product of x, [..., in] -> [..., out]."""


class PlainProduct(Product):
    """The product by `F.linear` and `@`: on any device, and what exporters trace.

    Both directions of a `pair` read one weight.

    Args:
        weight: [out, in].
        bias: [out], or None.

    Attributes:
        weight: As given.
        bias: As given.
        transposed: Whether this is the gradient's product.
    """

    name = "plain"

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias, self.transposed = weight, bias, False

    @classmethod
    def gradient_of(cls, weight: Tensor) -> Self:
        """Makes the product of the gradient alone, of a weight [out, in]."""
        backward = cls(weight, None)
        backward.transposed = True
        return backward

    def __call__(self, x: Tensor) -> Tensor:
        """Computes the product of x: [..., in] -> [..., out], or the other way round if transposed."""
        return x @ self.weight if self.transposed else F.linear(x, self.weight, self.bias)


class SplitProduct(Product):
    """The product out of bfloat16 parts, as exact as float32 products (see `clipfast.ops.split_linear`).

    Both directions of a `pair` read one copy of the weight.

    Args:
        weight: float32 [out, in].
        bias: float32 [out], or None.

    Attributes:
        bias: As given.
        out_features: Width of the result.
        transposed: Whether this is the gradient's product.
        blocks: The weight as `clipfast.ops.to_blocks` lays it out.

    Raises:
        NotImplementedError: If the C++ operators are not available.
    """

    name = "split"

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        if why_not() is not None:
            raise NotImplementedError(why_not())
        self.bias, self.out_features, self.transposed = bias, weight.shape[0], False
        self.blocks = to_blocks(weight)

    @classmethod
    def pair(cls, weight: Tensor, bias: Tensor | None) -> tuple[Self, Self]:
        """Makes the product and the product of its gradient, x [..., out] -> x @ weight.

        Args:
            weight: float32 [out, in].
            bias: float32 [out], or None; the gradient's product has none.
        """
        forward = cls(weight, bias)
        backward = copy.copy(forward)
        backward.bias, backward.out_features, backward.transposed = None, weight.shape[1], True
        return forward, backward

    @classmethod
    def gradient_of(cls, weight: Tensor) -> Self:
        """Makes the product of the gradient alone, of a weight [out, in]."""
        return cls.pair(weight, None)[1]

    def __call__(self, x: Tensor) -> Tensor:
        """Computes the product of x: [..., in] -> [..., out], or the other way round if transposed."""
        return split_linear(x, self.blocks, self.bias, self.out_features, transposed=self.transposed)


class PackedProduct(Product):
    """A product with a re-laid weight; to a compiled graph it is one operator, which hides the weight.

    Args:
        weight: [out, in].
        bias: [out], or None.

    Attributes:
        out_features: Width of the result.
        bias: As given.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.out_features = weight.shape[0]
        self.bias = bias
        self._handle = next(_handles)
        _products[self._handle] = self

    def __call__(self, x: Tensor) -> Tensor:
        """Computes the product of x, [..., in] -> [..., out]."""
        if torch.compiler.is_compiling():
            return torch.ops.clipfast.packed_product(x, self._handle, self.out_features)
        return self.run(x)

    @abstractmethod
    def run(self, x: Tensor) -> Tensor:
        """Computes the product of x, outside of compiled graphs."""


_handles = itertools.count()
_products: weakref.WeakValueDictionary[int, PackedProduct] = weakref.WeakValueDictionary()
declare(
    "packed_product(Tensor x, int handle, int out_features) -> Tensor",
    fake=lambda x, _handle, out_features: x.new_empty(*x.shape[:-1], out_features),
).register(lambda x, handle, _: _products[handle].run(x), "CPU")


class OneDnnProduct(PackedProduct):
    """The product by oneDNN with a weight in its blocked layout: float32, bfloat16 and float16.

    Args:
        weight: [out, in].
        bias: [out], or None.

    Raises:
        ImportError: If this PyTorch lacks the operators.
    """

    name = "onednn"

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        self._packed = torch_private.onednn_pack(weight.contiguous())

    def run(self, x: Tensor) -> Tensor:
        """Computes the product of x, [..., in] -> [..., out]."""
        return torch_private.onednn_linear(x, self._packed, self.bias, "none", [], "")


class MklProduct(PackedProduct):
    """The product by MKL's packed sgemm: float32 only.

    The operator takes a packed weight only for the number of rows that it was told at packing. The layout
    does not depend on that number, so each call names its own.

    Args:
        weight: float32 [out, in].
        bias: float32 [out], or None.

    Raises:
        ImportError: If this PyTorch lacks the operators.
    """

    name = "mkl"

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        self._packed = torch_private.mkl_pack(weight.contiguous(), _MKL_ROWS)
        # Only its shape is read while the packed weight is used.
        self._shape_only = weight.new_empty(1).expand(weight.shape)

    def run(self, x: Tensor) -> Tensor:
        """Computes the product of x, [..., in] -> [..., out]."""
        rows = x.numel() // x.shape[-1]
        return torch_private.mkl_linear(x, self._packed, self._shape_only, self.bias, rows)


_MKL_ROWS = 100
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


@functools.cache
def product_forms(dtype: torch.dtype) -> tuple[type[Product], ...]:
    """Returns the forms of products that give right results on this CPU, the fastest first.

    The order is measured in benchmarks/README.md. `PlainProduct` is always the last.

    Args:
        dtype: Of the operands: float32, bfloat16 or float16.
    """
    candidates: tuple[type[Product], ...] = (OneDnnProduct,)
    if dtype == torch.float32:
        candidates = (SplitProduct, MklProduct, OneDnnProduct)
    return (*(form for form in candidates if _works(form, dtype)), PlainProduct)


def _works(form: type[Product], dtype: torch.dtype) -> bool:
    """Whether a form runs here and is right, also for row counts that it was not packed for."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(96, 160, generator=generator).to(dtype)
    bias = torch.randn(96, generator=generator).to(dtype)
    try:
        forward, backward = form.pair(weight, bias)
        for rows in (1, 7, _MKL_ROWS, 333):
            x = torch.randn(rows, 160, generator=generator).to(dtype)
            g = torch.randn(rows, 96, generator=generator).to(dtype)
            for result, expected in (
                (forward(x), F.linear(x.double(), weight.double(), bias.double())),
                (backward(g), g.double() @ weight.double()),
            ):
                if not (result - expected).abs().max() < _TOLERANCE[dtype] * expected.abs().max():
                    return False
    except (ImportError, RuntimeError, NotImplementedError):
        return False
    return True


class Forms(NamedTuple):
    """The forms of a layer's two products.

    Attributes:
        forward: Of the layer itself.
        gradient: Of its gradient.
    """

    forward: type[Product]
    gradient: type[Product]

    def products_of(self, weight: Tensor, bias: Tensor | None) -> tuple[Product, Product]:
        """Makes both products of a weight [out, in] and a bias [out]. Those of one form share a copy."""
        if self.forward is self.gradient:
            return self.forward.pair(weight, bias)
        return self.forward(weight, bias), self.gradient.gradient_of(weight)


class Choice(NamedTuple):
    """Which forms a layer's products take, by the number of rows of their input.

    Attributes:
        few: The forms for few rows.
        many: The forms for many rows.
        limit: How many rows are few at most.
    """

    few: Forms
    many: Forms
    limit: int

    @classmethod
    def of(cls, form: type[Product]) -> Choice:
        """Returns the choice of one form, whatever the direction and the number of rows."""
        return cls(Forms(form, form), Forms(form, form), 0)


class FrozenLinear:
    """y = x W^T + b and its gradient to x, with the products' operands in `dtype`.

    Args:
        weight: [out, in].
        bias: [out], or None.
        dtype: What both are converted to.
        choice: The forms of the products; None for plain products, which re-lay no weight. They are
            plain on other devices than a CPU, too.

    Attributes:
        dtype: Of the operands and the results.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, choice: Choice | None = None
    ) -> None:
        weight = weight.detach().to(dtype)
        bias = None if bias is None else bias.detach().to(dtype)
        self.dtype = dtype
        if choice is None or weight.device.type != "cpu":
            choice = Choice.of(PlainProduct)
        self._many = self._few = choice.many.products_of(weight, bias)
        self._limit = 0
        if choice.few != choice.many:
            self._few, self._limit = choice.few.products_of(weight, bias), choice.limit

    def __call__(self, x: Tensor) -> Tensor:
        """Computes y of x, [..., in] -> `dtype` [..., out]."""
        return self._products(x)[0](x.to(self.dtype))

    def input_gradient(self, g: Tensor) -> Tensor:
        """Takes the gradient of y back to x, [..., out] -> `dtype` [..., in]."""
        return self._products(g)[1](g.to(self.dtype))

    def _products(self, x: Tensor) -> tuple[Product, Product]:
        if not self._limit:  # an exported graph knows no number of rows
            return self._many
        return self._few if x.numel() // x.shape[-1] <= self._limit else self._many


def first_choice(dtype: torch.dtype) -> Choice:
    """Returns the choice of the first of `product_forms`, whatever the number of rows."""
    return Choice.of(product_forms(dtype)[0])
