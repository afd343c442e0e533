"""`import clipfast` and what deployment needs of it work without torch, and start nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from hand_made import make_metadata, write_onnx
from PIL import Image
from sharing import made_once
from sources import ROOT, copy_sources

from clipfast.models.shapes import draw

HEAVY = ("torch", "open_clip", "torchvision", "onnx", "onnxruntime", "sklearn", "scipy", "triton")


def python(code: str, executable: str | Path = sys.executable) -> str:
    done = subprocess.run([executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "tests")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "module",
    [
        "clipfast",
        "clipfast.preprocess",
        "clipfast.config",
        "clipfast.cli",
        "clipfast.prediction",
        "clipfast.runtime",
        "clipfast.artifacts.metadata",
    ],
)
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
    return made_once(tmp_path_factory, "bare", install) / "venv"


def install(folder: Path) -> None:
    venv, source = folder / "venv", copy_sources(folder / "source")
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    command = [venv / "bin/python", "-m", "pip", "install", "--quiet", f"{source}[runtime]"]
    # Without a compiler, for whose sake torch would be fetched to build against.
    no_compiler = {**os.environ, "CC": "no-such-compiler", "CXX": "no-such-compiler"}
    done = subprocess.run(command, env=no_compiler, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    for command in (["classify", tmp_path / "picture.png"], ["demo", "--out", tmp_path / "out"]):
        done = subprocess.run([bare / "bin/clipfast", *command], capture_output=True, text=True)
        assert done.returncode == 2
        assert "pip install 'clipfast[torch]'" in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()
    done = subprocess.run([bare / "bin/clipfast", "--version"], capture_output=True, text=True)
    assert done.returncode == 0


def test_an_exported_file_is_served_without_torch(bare, tmp_path):
    path = write_onnx(tmp_path / "a.onnx", make_metadata())
    code = f"""
import sys
from clipfast import Prediction, Stats
from clipfast.runtime import load_artifact
classifier = load_artifact({str(path)!r})
picture = classifier.preprocess.batch([{str(tmp_path / "picture.png")!r}])
print(classifier.predict(picture, seed=0).topk(1)[0][0][0], classifier.stats().images, "torch" in sys.modules)
"""
    Image.new("RGB", (40, 40), "green").save(tmp_path / "picture.png")
    assert python(code, bare / "bin/python") == "green 1 False"
    command = [bare / "bin/clipfast", "classify", tmp_path / "picture.png", "--json", "--artifact"]
    done = subprocess.run([*command, path, "--seed", "0"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["class"] == "green"
    done = subprocess.run([*command, "a.pt2", "--trust"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "needs torch, which is not installed: pip install 'clipfast[torch]'" in " ".join(
        done.stderr.split()
    )


def test_classifies_pictures_from_an_exported_file_without_torch(bare, exported, bundled, tmp_path):
    files = []
    for i, picture in enumerate(draw(4, seed=(8, 8)).pixels):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(picture.transpose(1, 2, 0)).save(files[-1])
    command = [bare / "bin/clipfast", "classify", tmp_path, "--artifact", exported("lab").path]
    done = subprocess.run([*command, "--json", "--seed", "2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    expected = bundled.predict(torch.from_numpy(bundled.preprocess.batch(files)), seed=2)
    assert [row["class"] for row in rows] == [best[0][0] for best in expected.topk(1)]
    assert [row["countered"] for row in rows] == expected.countered.tolist()
    assert [row["drift"] for row in rows] == pytest.approx(expected.drift.tolist(), rel=1e-4)
