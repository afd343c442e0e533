from __future__ import annotations

import warnings

import pytest
import torch

from clipfast import InputError, torch_private
from clipfast.defence import precision
from clipfast.defence.precision import resolve

CPU = torch.device("cpu")


def test_the_precision_asked_for_is_taken_where_there_is_one():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in precision.available(CPU):
            assert resolve(name, CPU) == name


def test_a_cpu_without_bfloat16_runs_in_float32_and_says_so(monkeypatch):
    monkeypatch.setattr(precision, "available", lambda _: ("fp32",))
    with pytest.warns(RuntimeWarning, match="no bfloat16 products: running in fp32"):
        assert resolve("bf16", CPU) == "fp32"


def test_what_is_not_there_is_an_error_that_names_what_is(monkeypatch):
    monkeypatch.setattr(precision, "available", lambda _: ("fp32", "bf16"))
    with pytest.raises(InputError, match=r"'fp16' is not available on cpu; available: \('fp32', 'bf16'\)"):
        resolve("fp16", CPU)
    with pytest.raises(InputError, match=r"must be one of .*'bf16'.*, got 'int8'"):
        resolve("int8", CPU)
    monkeypatch.undo()
    with pytest.raises(InputError, match="expected a model on cpu or cuda, got meta"):
        resolve("fp32", torch.device("meta"))


def test_a_build_without_onednn_has_float32(monkeypatch):
    monkeypatch.delitem(vars(torch_private), "has_bf16", raising=False)  # if it was looked up
    there = torch_private.NAMES["has_bf16"]
    monkeypatch.setitem(torch_private.NAMES, "has_bf16", there._replace(path="torch.ops.mkldnn._no_such"))
    assert precision.available(CPU) == ("fp32",)
