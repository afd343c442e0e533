"""Frozen linear layers in both directions, over weights that are re-laid once for the machine's products.

The packed forms call operators that PyTorch keeps private (Inductor's own): everything about them, and what
stands in where they are missing, is in this file.
"""

from __future__ import annotations

import functools
import itertools
import weakref
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["FrozenLinear", "PackedProduct", "PlainProduct", "product_forms", "product_of"]


class PlainProduct:
    """x [..., in] -> x @ weight.T (+ bias) by `F.linear`: on any device, and what exporters trace."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        """The product."""
        return F.linear(x, self.weight, self.bias)


class PackedProduct(ABC):
    """The same over a re-laid weight, which a compiled graph must not look into: to it, one operator."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.out_features = weight.shape[0]
        self.bias = bias
        self._handle = next(_handles)
        _products[self._handle] = self

    def __call__(self, x: Tensor) -> Tensor:
        """The product."""
        if torch.compiler.is_compiling():
            return torch.ops.clipfast.packed_product(x, self._handle, self.out_features)
        return self.run(x)

    @abstractmethod
    def run(self, x: Tensor) -> Tensor:
        """The product."""


_handles = itertools.count()
_products: weakref.WeakValueDictionary[int, PackedProduct] = weakref.WeakValueDictionary()
_library = torch.library.Library("clipfast", "FRAGMENT")
_library.define("packed_product(Tensor x, int handle, int out_features) -> Tensor")
_library.impl("packed_product", lambda x, handle, _: _products[handle].run(x), "CPU")


@torch.library.register_fake("clipfast::packed_product", lib=_library)
def _packed_product_fake(x: Tensor, handle: int, out_features: int) -> Tensor:  # noqa: ARG001
    return x.new_empty(*x.shape[:-1], out_features)


class OneDnnProduct(PackedProduct):
    """By oneDNN over a weight in its blocked layout: float32, bfloat16 and float16."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())

    def run(self, x: Tensor) -> Tensor:
        """The product."""
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")


class MklProduct(PackedProduct):
    """By MKL's packed sgemm: float32 only.

    The operator takes the packed weight where the batch is of the size it was packed for; the layout does
    not depend on that size, so each call names its own.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        self._packed = torch.ops.mkl._mkl_reorder_linear_weight(weight.contiguous(), _MKL_ROWS)
        # Only its shape is read while the packed weight is used.
        self._shape_only = weight.new_empty(1).expand(weight.shape)

    def run(self, x: Tensor) -> Tensor:
        """The product."""
        rows = x.numel() // x.shape[-1]
        return torch.ops.mkl._mkl_linear(x, self._packed, self._shape_only, self.bias, rows)


_MKL_ROWS = 100
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


@functools.cache
def product_forms(dtype: torch.dtype) -> tuple[type[PlainProduct | OneDnnProduct | MklProduct], ...]:
    """The forms that give right answers on this CPU, the fastest first (benchmarks/README.md)."""
    candidates = (MklProduct, OneDnnProduct) if dtype == torch.float32 else (OneDnnProduct,)
    return (*(form for form in candidates if _works(form, dtype)), PlainProduct)


def _works(form: type[OneDnnProduct | MklProduct], dtype: torch.dtype) -> bool:
    """Whether a private operator exists and is right, for other row counts than it was packed for too."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(96, 160, generator=generator).to(dtype)
    bias = torch.randn(96, generator=generator).to(dtype)
    try:
        product = form(weight, bias)
        for rows in (1, 7, _MKL_ROWS, 333):
            x = torch.randn(rows, 160, generator=generator).to(dtype)
            expected = F.linear(x.double(), weight.double(), bias.double())
            error = (product(x).double() - expected).abs().max() / expected.abs().max()
            if not error < _TOLERANCE[dtype]:
                return False
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return True


def product_of(weight: Tensor, bias: Tensor | None, *, pack: bool) -> PlainProduct | PackedProduct:
    """The fastest product with a weight [out, in] here; `pack=False`: the plain one."""
    if not pack or weight.device.type != "cpu":
        return PlainProduct(weight, bias)
    return product_forms(weight.dtype)[0](weight, bias)


class FrozenLinear:
    """y = x W^T + b and its gradient to x, with the operands of the products in `dtype`.

    weight: float32 [out, in]; bias: float32 [out] or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, *, pack: bool) -> None:
        weight = weight.detach().to(dtype)
        bias = None if bias is None else bias.detach().to(dtype)
        self.dtype = dtype
        self._forward = product_of(weight, bias, pack=pack)
        self._backward = product_of(weight.t(), None, pack=pack)

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., in] -> `dtype` [..., out]."""
        return self._forward(x.to(self.dtype))

    def input_gradient(self, g: Tensor) -> Tensor:
        """The gradient [..., out] of y -> that of x, `dtype` [..., in]."""
        return self._backward(g.to(self.dtype))
