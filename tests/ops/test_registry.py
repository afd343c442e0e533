"""What each operator declares of itself is what torch and its forms have."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys

import pytest
import torch
from forms import CPP_ONLY
from sources import ROOT
from torch import Tensor

import clipfast.encoders.linear  # noqa: F401  (it declares packed_product)
from clipfast import InputError
from clipfast.ops import dispatch
from clipfast.ops.dispatch import form
from clipfast.ops.registry import OPERATORS, Operator

NAIVE = [name for name, operator in OPERATORS.items() if operator.naive is not None]
TRITON = {name for name, operator in OPERATORS.items() if "triton" in operator.kernels}
CPP = {name for name, operator in OPERATORS.items() if "cpp" in operator.kernels}


def schema(name: str) -> list[str]:
    """The names of an operator's arguments."""
    return [argument.name for argument in getattr(torch.ops.clipfast, name).default._schema.arguments]


@pytest.mark.parametrize("name", NAIVE)
def test_the_naive_form_takes_what_the_schema_says(name):
    naive = OPERATORS[name].naive
    assert naive is not None
    assert list(inspect.signature(naive).parameters) == schema(name)
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"clipfast::{name}", "CompositeExplicitAutograd")


def test_cpp_has_the_operators_that_say_so():
    sources = "\n".join(path.read_text() for path in sorted((ROOT / "csrc").glob("*.cpp")))
    registered = re.findall(r'STABLE_TORCH_LIBRARY_IMPL\(clipfast, CPU, m\) \{ m\.impl\("(\w+)"', sources)
    assert sorted(registered) == sorted(CPP)


def test_triton_has_the_operators_that_say_so():
    tree = ast.parse((ROOT / "clipfast/ops/triton_kernels.py").read_text())
    public = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"}
    assert public == TRITON


@pytest.mark.parametrize(
    ("name", "arguments", "shape"),
    [
        ("split_linear", ((3, 5, 40), (2, 2, 32, 32), None, 48, False), (3, 5, 48)),
        ("packed_product", ((3, 5, 40), 7, 48), (3, 5, 48)),
    ],
)
def test_shapes_without_values(name, arguments, shape):
    given = [torch.empty(a, device="meta") if isinstance(a, tuple) else a for a in arguments]
    result = getattr(torch.ops.clipfast, name)(*given)
    assert (tuple(result.shape), result.dtype, result.device.type) == (shape, torch.float32, "meta")


@pytest.fixture
def doubled(monkeypatch) -> Operator:
    """An operator that is naive and nothing else."""
    monkeypatch.delenv("CLIPFAST_IMPL", raising=False)
    monkeypatch.setattr(dispatch, "_told", set())
    return Operator(name="doubled", naive=lambda x: 2 * x, kernels=())


def test_an_operator_that_is_naive_alone_is_one_of_them(doubled, monkeypatch, caplog):
    x: Tensor = torch.ones(3)
    for variable in ("", "auto", "naive"):
        monkeypatch.setenv("CLIPFAST_IMPL", variable)
        for implementation in ("auto", "naive"):
            assert form(doubled, implementation, x)(x).tolist() == [2, 2, 2]
    assert not caplog.records  # nothing is amiss


@CPP_ONLY
def test_a_form_that_an_operator_lacks_is_an_error(doubled, monkeypatch):
    message = "implementation 'cpp'.* is not available on cpu: this operator has no such form"
    with pytest.raises(InputError, match=message):
        form(doubled, "cpp", torch.ones(3))
    monkeypatch.setenv("CLIPFAST_IMPL", "cpp")
    with pytest.raises(InputError, match=message):
        form(doubled, "auto", torch.ones(3))


def test_nothing_needs_triton():
    code = """
import sys
sys.modules["triton"] = None
import clipfast.ops
print(clipfast.ops.implementations().unavailable["triton"])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("triton does not import: ")
