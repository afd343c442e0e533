"""`import clipfast` and what deployment needs of it work without torch, and start nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from sources import ROOT, copy_sources

HEAVY = ("torch", "open_clip", "torchvision", "onnx", "sklearn", "scipy", "triton")


def python(code: str, executable: str | Path = sys.executable) -> str:
    done = subprocess.run([executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "tests")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("module", ["clipfast", "clipfast.preprocess", "clipfast.config", "clipfast.cli"])
def test_import_loads_nothing_heavy(module):
    assert python(f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])") == "[]"


def test_importing_the_classifier_starts_no_cuda():
    assert (
        python("import torch, clipfast; clipfast.DefendedClassifier; print(torch.cuda.is_initialized())")
        == "False"
    )


def test_dir_and_unknown_names():
    assert "DefendedClassifier" in python("import clipfast; print(dir(clipfast))")
    assert "no attribute 'nothing'" in python(
        "import clipfast\ntry: clipfast.nothing\nexcept AttributeError as error: print(error)"
    )


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A virtual environment with clipfast and the runtime extra, installed as a user would, without torch."""
    folder = tmp_path_factory.mktemp("bare")
    venv, source = folder / "venv", copy_sources(folder / "source")
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    install = [venv / "bin/python", "-m", "pip", "install", "--quiet", f"{source}[runtime]"]
    # Without a compiler, for whose sake torch would be fetched to build against.
    no_compiler = {**os.environ, "CC": "no-such-compiler", "CXX": "no-such-compiler"}
    done = subprocess.run(install, env=no_compiler, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return venv


def test_without_torch(bare, tmp_path):
    executable = bare / "bin/python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(bare), "platbase": str(bare)}))
    assert not (site / "torch").exists()
    installed, source = (
        {p.relative_to(root) for p in root.rglob("*") if p.is_file() and p.suffix not in (".pyc", ".so")}
        for root in (site / "clipfast", ROOT / "clipfast")
    )
    assert installed == source
    size = sum(file.stat().st_size for file in site.rglob("*") if file.is_file())
    assert size < 300 * 2**20
    code = """
import clipfast, numpy as np
from clipfast.preprocess import Preprocess
print(clipfast.CounterattackConfig().steps, Preprocess(size=(8, 8))(np.zeros((9, 9, 3), np.uint8)).shape)
try:
    clipfast.DefendedClassifier
except ImportError as error:
    print(error)
"""
    lines = python(code, executable).splitlines()
    assert lines[0] == "2 (3, 8, 8)"
    assert lines[1] == (
        "clipfast.DefendedClassifier needs torch, which is not installed: pip install 'clipfast[torch]'"
    )
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    for command in (["classify", tmp_path / "picture.png"], ["demo", "--out", tmp_path / "out"]):
        done = subprocess.run([bare / "bin/clipfast", *command], capture_output=True, text=True)
        assert done.returncode == 2
        assert "pip install 'clipfast[torch]'" in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()
    done = subprocess.run([bare / "bin/clipfast", "--version"], capture_output=True, text=True)
    assert done.returncode == 0
