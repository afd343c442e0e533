"""Errors that users see: which extra a missing package belongs to, and what `clipfast` exports."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from absent import absent

import clipfast
from clipfast import errors
from clipfast.errors import names_extra
from clipfast.evaluation.datasets.registry import DATASETS
from clipfast.exporters import export

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Comes with torch where torch can use it, and is not missed elsewhere.
WITH_TORCH = {"triton"}


def imported() -> set[str]:
    """The packages that clipfast imports somewhere, besides the standard library and itself."""
    modules: set[str] = set()
    for file in (ROOT / "clipfast").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules.add(node.module)
    needed = {entry.needs for entry in DATASETS.values() if entry.needs is not None}
    packages = {module.partition(".")[0] for module in modules} | needed
    return packages - set(sys.stdlib_module_names) - {"clipfast"} - WITH_TORCH


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def required(requirements: list[str]) -> set[str]:
    """The distributions that requirements name, those of clipfast's own extras among them."""
    names: set[str] = set()
    for requirement in requirements:
        if extras := re.fullmatch(r"clipfast\[(.+)\]", requirement):
            for extra in extras[1].split(","):
                names |= required(PROJECT["optional-dependencies"][extra])
        else:
            found = re.match(r"[\w.-]+", requirement)
            assert found is not None
            names.add(plain(found[0]))
    return names


def test_every_package_that_is_imported_is_required_or_named_with_the_extra_that_brings_it():
    distributions = packages_distributions()
    without = required(PROJECT["dependencies"])
    packages = imported()
    assert {"torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime"} <= packages
    for package in packages:
        names = {plain(name) for name in distributions.get(package, [package])}
        if names & without:
            continue
        said = str(names_extra("this", ModuleNotFoundError(name=package)))
        extra = re.fullmatch(
            rf"this needs {package}, which is not installed: pip install 'clipfast\[(\w+)\]'", said
        )
        assert extra is not None, (package, said)
        assert names & required(PROJECT["optional-dependencies"][extra[1]]), package


@pytest.mark.parametrize("package", ["onnx", "onnx_ir", "onnxscript"])
def test_an_export_without_a_package_names_the_extra(bundled, tmp_path, package):
    writing = [name for name in sys.modules if name.startswith("clipfast.exporters.onnx")]
    with (
        absent(package, *writing),
        pytest.raises(
            ModuleNotFoundError,
            match=rf"an export as onnx needs {package}, .*: pip install 'clipfast\[torch\]'",
        ),
    ):
        export(bundled, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_every_error_and_warning_is_exported():
    for name in errors.__all__:
        kind = getattr(errors, name)
        if isinstance(kind, type):
            assert getattr(clipfast, name) is kind
            assert name in clipfast.__all__
