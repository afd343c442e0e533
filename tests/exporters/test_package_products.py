"""Which products an AOTInductor package is compiled with; what it answers is tested beside."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clipfast.exporters import aotinductor
from clipfast.exporters.aotinductor import _fastest_linear, _linear, _onednn_linear

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("linear", [_linear, _onednn_linear])
def test_a_layer_is_the_same_by_either(linear, with_bias, shape):
    weight, bias = torch.randn(6, 7), torch.randn(6) if with_bias else None
    x = torch.randn(*shape, 7)
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias), rtol=1e-5, atol=1e-5)


def exported(model: nn.Module, width: int, dtype: torch.dtype = torch.float32):
    return torch.export.export(model.to(dtype), (torch.randn(3, width, dtype=dtype),)).module()


@pytest.mark.parametrize(("verdict", "expected"), [("mkl", _linear), ("onednn", _onednn_linear)])
def test_the_largest_weight_is_tried(monkeypatch, verdict, expected):
    tried = []

    def decided(what: str, forms, **_) -> str:
        tried.append(what)
        results = [form() for form in forms.values()]
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-3)
        return verdict

    monkeypatch.setattr(aotinductor, "fastest", decided)
    module = exported(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 32)), 8)
    assert _fastest_linear(module, CPU) is expected
    assert tried == ["package's product 16 -> 32, 100 rows"]


def test_nothing_is_tried_where_there_is_nothing_to_choose(monkeypatch):
    monkeypatch.setattr(aotinductor, "fastest", None)
    layer = nn.Linear(8, 4)
    assert _fastest_linear(exported(layer, 8), torch.device("cuda")) is _linear
    assert _fastest_linear(exported(nn.GELU(), 8), CPU) is _linear
    assert _fastest_linear(exported(layer, 8, torch.float64), CPU) is _linear
