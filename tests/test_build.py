"""The package with and without a C++ compiler."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from build_backend import torch_requirement
from packaging.requirements import Requirement
from sources import ROOT, copy_sources

COMPILER = os.environ.get("CXX") or shutil.which("c++")
CROSS_COMPILER = shutil.which("aarch64-linux-gnu-g++")


def build_wheel(folder: Path, compiler: str) -> tuple[Path, str]:
    """A wheel from a copy of the sources, and what the build said."""
    source = copy_sources(folder / "source")
    command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-build-isolation", "--no-deps", str(source)]
    environment = {**os.environ, "CC": compiler, "CXX": compiler}
    done = subprocess.run(
        [*command, "-w", str(folder)], env=environment, capture_output=True, text=True, check=True
    )
    return next(folder.glob("clipfast-*.whl")), done.stdout + done.stderr


def test_without_a_compiler_it_installs_with_a_warning(tmp_path):
    wheel, said = build_wheel(tmp_path, str(tmp_path / "no-compiler"))
    assert 'building extension "clipfast.ops._native" failed' in said
    names = zipfile.ZipFile(wheel).namelist()
    assert "clipfast/ops/native.py" in names
    assert not [name for name in names if name.endswith(".so")]


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_with_a_compiler_it_brings_the_operators_for_any_python(tmp_path):
    assert COMPILER
    hasty = tmp_path / "hasty"  # the compiler without optimisation, which takes most of its time
    hasty.write_text(f'#!/bin/bash\nexec {COMPILER} "${{@/#-O3/-O0}}"\n')
    hasty.chmod(0o755)
    wheel, _ = build_wheel(tmp_path, str(hasty))
    assert "-py3-none-linux" in wheel.name
    zipfile.ZipFile(wheel).extract("clipfast/ops/_native.so", tmp_path)
    library = tmp_path / "clipfast/ops/_native.so"
    check = f"import clipfast.ops, torch; torch.ops.load_library({str(library)!r})"
    subprocess.run([sys.executable, "-c", check], check=True)
    assert b"PyInit" not in library.read_bytes()


@pytest.mark.skipif(not CROSS_COMPILER, reason="no compiler for aarch64")
@pytest.mark.parametrize("source", sorted((ROOT / "csrc").glob("*.cpp")), ids=lambda path: path.stem)
def test_it_compiles_for_aarch64(tmp_path, source):
    include = Path(torch.__file__).parent / "include"
    flags = ["-std=c++20", "-O0", "-fPIC", "-Wall", "-Werror", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
    command = [str(CROSS_COMPILER), *flags, f"-I{include}", "-c", str(source), "-o", str(tmp_path / "out.o")]
    subprocess.run(command, check=True)


def test_torch_is_asked_for_only_where_a_compiler_could_use_it(tmp_path):
    code = "import build_backend as b; print(b.get_requires_for_build_wheel())"
    for compiler, asked in (("no-such-compiler", False), (sys.executable + " -x", True)):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "CXX": compiler, "PYTHONPATH": str(ROOT / "tools")},
            cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert ("torch" in done.stdout) == asked


def test_torch_is_bounded_in_one_place_by_what_is_tested_here():
    bounds = Requirement(torch_requirement()).specifier
    assert torch.__version__ in bounds
    assert "99" not in bounds
    target = re.search(r'TORCH_TARGET_VERSION = "0x(..)(..)', (ROOT / "setup.py").read_text())
    assert target
    oldest = f"{int(target[1], 16)}.{int(target[2], 16)}"
    assert oldest in bounds
    assert f"{int(target[1], 16)}.{int(target[2], 16) - 1}" not in bounds
    for path in (ROOT / "Makefile", ROOT / "setup.py", *ROOT.glob("tools/*.py"), *ROOT.glob(".ci/*")):
        assert not re.search(r"\btorch(vision)?\s*[<>=~]=?\s*\d", path.read_text()), path
