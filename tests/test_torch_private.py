"""PyTorch's private names: those that are used are there, and stand in one module."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sources import ROOT

from clipfast import torch_private
from clipfast.torch_private import NAMES, PrivateName

PRIVATE_MODULES = re.compile(r"torch(\.\w+)*\._(?!_)|torch\.(fx\.experimental|nn\.modules)\b")
# With a leading underscore, and public: of named tuples, and documented by torch.jit.save.
PUBLIC = {"_asdict", "_replace", "_fields", "_extra_files"}
INSTANCES = {"torch.nn.Module": torch.nn.Module(), "torch.Tensor": torch.empty(0)}


@pytest.mark.parametrize("name", NAMES)
def test_this_torch_has(name):
    path, users = NAMES[name]
    owner, _, last = path.rpartition(".")
    if owner in INSTANCES:
        there = hasattr(INSTANCES[owner], last)
    else:
        try:
            there = torch_private.find(name) is not None
        except ImportError:
            there = False
    if not there:
        pytest.fail(f"torch {torch.__version__} lacks {path}, used by clipfast.{', clipfast.'.join(users)}")


def test_this_torch_traces_with_real_weights():
    assert "_allow_non_fake_inputs" in inspect.signature(torch_private.find("trace")).parameters, (
        f"torch {torch.__version__}: make_fx lacks _allow_non_fake_inputs, used by clipfast.encoders.traced"
    )


@pytest.mark.parametrize(
    "path", ["torch.ops.mkl._no_such", "torch._no_such.module", "torch.fx.experimental.no_such.make_fx"]
)
def test_what_is_missing_is_named_where_it_is_asked_for(path, monkeypatch):
    monkeypatch.setitem(NAMES, "lost", PrivateName(path, ("encoders.linear", "defence.precision")))
    users = "clipfast.encoders.linear, clipfast.defence.precision"
    message = f"torch {torch.__version__} has no {path}, which {users} uses"
    with pytest.raises(ImportError, match=re.escape(message)):
        torch_private.lost  # noqa: B018
    with pytest.raises(ImportError, match=re.escape(message)):
        exec("from clipfast.torch_private import lost")
    with pytest.raises(AttributeError, match="no attribute 'unheard_of'"):
        torch_private.unheard_of  # noqa: B018


def sources() -> Iterator[tuple[str, ast.Module]]:
    for folder in ("clipfast", "export", "benchmarks", "tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path != Path(torch_private.__file__):
                yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def test_each_is_used_by_the_modules_that_are_named():
    found: dict[str, set[str]] = {name: set() for name in NAMES}
    for path, tree in sources():
        user = path.removeprefix("clipfast/").removesuffix(".py").replace("/", ".")
        for node in ast.walk(tree):
            used = []
            if isinstance(node, ast.ImportFrom) and (node.module or "").endswith("torch_private"):
                used = [alias.name for alias in node.names]
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "torch_private":
                used = [node.attr]
            for name in used:
                found[name].add(user)
    assert found == {name: set(users) for name, (_, users) in NAMES.items()}


def own_names(tree: ast.Module) -> set[str]:
    """What a module gives a name to: functions, classes, arguments, variables, attributes."""
    names = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, (ast.Attribute, ast.Name)) and isinstance(node.ctx, ast.Store):
            names.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return names


def private(tree: ast.Module, own: set[str]) -> Iterator[str]:
    """What a module uses of private names that are not its project's own."""
    known = {path.rpartition(".")[2] for path, _ in NAMES.values()}

    def is_foreign(name: str) -> bool:
        return bool(re.match("_[a-zA-Z]", name)) and name not in PUBLIC and (name in known or name not in own)

    for node in ast.walk(tree):
        yield from (name for name in imports(node) if PRIVATE_MODULES.match(name))
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            if PRIVATE_MODULES.match(text) or (is_foreign(node.attr) and text != f"self.{node.attr}"):
                yield text
        elif isinstance(node, ast.keyword) and is_foreign(node.arg or ""):
            yield f"{node.arg}="
        elif isinstance(node, ast.Constant) and node.value in known and is_foreign(node.value):
            yield repr(node.value)


def test_they_are_used_nowhere_else():
    trees = dict(sources())
    own = set().union(*map(own_names, trees.values()))
    found = [f"{path}: {use}" for path, tree in trees.items() for use in private(tree, own)]
    assert not found, "private names belong in clipfast/torch_private.py:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "import torch._inductor", "from torch._ops import OpOverload", "from torch import _dynamo",
        "from torch.fx.experimental.proxy_tensor import make_fx", "from torch.nn.modules import linear",
        "torch.ops.mkl._mkl_linear(x)", "torch._dynamo.reset()", "aten._softmax_backward_data(x)",
        "parameter._version", "self.tensor._version", "getattr(aten, '_unsafe_view')",
        "make_fx(f, _allow_non_fake_inputs=True)", "def f(tensor): tensor._base",
    ],
)  # fmt: skip
def test_a_private_name_is_seen(line):
    assert list(private(ast.parse(line), own={"_version"}))


@pytest.mark.parametrize(
    "line",
    [
        "import torch.nn.functional", "self._version", "row._asdict()", "from torch.fx.graph import CodeGen",
        "def f(other): other._kept = 1; return other._kept", "torch.jit.save(x, y, _extra_files={})",
    ],
)  # fmt: skip
def test_a_public_name_is_not(line):
    assert not list(private(ast.parse(line), own_names(ast.parse(line))))
