"""The forms of the operators that can be tested here, and calls of them that watch the memory."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_iter, tree_map_only

from clipfast.ops.native import why_not

CUDA = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
TRITON = importlib.util.find_spec("triton") is not None


@dataclass(frozen=True)
class Form:
    name: str
    device: str = "cpu"
    exact: torch.dtype = torch.float32

    def of(self, dtype: torch.dtype) -> torch.dtype:
        return self.exact if dtype == torch.float32 else dtype


NAIVE = Form("naive")
CPP_ONLY = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
CPP = pytest.param(Form("cpp"), id="cpp", marks=CPP_ONLY)
TRITON_FORM = pytest.param(
    Form("triton", "cuda" if CUDA and not INTERPRETED else "cpu"),
    id="triton",
    marks=pytest.mark.skipif(
        not TRITON or not (CUDA or INTERPRETED), reason="needs a GPU or TRITON_INTERPRET=1"
    ),
)
ON_CUDA = pytest.mark.skipif(not CUDA, reason="needs a GPU")
FORMS = [
    pytest.param(NAIVE, id="naive"),
    pytest.param(Form("naive", "cuda"), id="naive on a GPU", marks=[pytest.mark.gpu, ON_CUDA]),
    CPP,
    TRITON_FORM,
]
FORMS_AND_FLOAT64 = [*FORMS, pytest.param(Form("naive", exact=torch.float64), id="naive in float64")]


def call(operator: Callable, form: Form, *arguments: Any, **options: Any) -> Any:
    """An operator's results, on the CPU. What it does not write is NaN, and it writes to no input."""
    arguments, options = tree_map_only(Tensor, lambda tensor: tensor.to(form.device), (arguments, options))
    before = tree_map_only(Tensor, torch.clone, (arguments, options))
    with _uninitialised_memory_is_nan():
        results = operator(*arguments, **options, implementation=form.name)
    for tensor, was in zip(tree_iter((arguments, options)), tree_iter(before), strict=True):
        if isinstance(tensor, Tensor):
            assert_same(tensor, was)
    assert all(result.is_contiguous() for result in tree_iter(results))
    return tree_map_only(Tensor, Tensor.cpu, results)


@contextmanager
def _uninitialised_memory_is_nan() -> Iterator[None]:
    assert torch.utils.deterministic.fill_uninitialized_memory
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a GPU's products, whose sums have no fixed order
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            assert torch.empty(1).isnan()
            yield
        finally:
            torch.use_deterministic_algorithms(False)


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    """To the bit, but for the sign of zero and NaN's payload."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def assert_close(ours: Tensor, theirs: Tensor, *, rtol: float = 0.0, atol: float) -> None:
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=rtol, atol=atol, equal_nan=True)


def by_oracle(function: Callable, *arguments: Any, **options: Any) -> Any:
    """What a function of the oracle makes of tensors, as tensors: float64 but for uint8."""
    arguments = tree_map_only(
        Tensor,
        lambda tensor: (tensor if tensor.dtype == torch.uint8 else tensor.double()).numpy().copy(),
        arguments,
    )
    results = function(*arguments, **options)
    if isinstance(results, tuple):
        return tuple(torch.from_numpy(result) for result in results)
    return torch.from_numpy(results)
