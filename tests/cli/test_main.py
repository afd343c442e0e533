"""What ends a command line, and the choices that its options have."""

from __future__ import annotations

import sys
from typing import get_args

import pytest
import torch
from absent import absent
from hand_made import make_metadata, write_onnx
from PIL import Image

from clipfast import OutOfMemoryError
from clipfast.artifacts.formats import FORMATS, FormatName
from clipfast.cli import options
from clipfast.defence import precision
from clipfast.evaluation import BudgetName
from clipfast.evaluation.budgets import BUDGETS
from clipfast.runtime import ArtifactClassifier


@pytest.fixture
def classify(run, tmp_path, monkeypatch):
    """Runs `clipfast classify` on a classifier that raises an error."""
    Image.new("RGB", (40, 40)).save(tmp_path / "picture.png")
    file = write_onnx(tmp_path / "a.onnx", make_metadata())

    def call(error: Exception):
        def predict(*_, **__):
            raise error

        monkeypatch.setattr(ArtifactClassifier, "predict", predict)
        return run("classify", tmp_path / "picture.png", "--artifact", file)

    return call


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (OutOfMemoryError("out of memory at 4 images a chunk"), "error: out of memory at 4 images a chunk"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried [2 GiB]"), "CUDA out of memory. Tried [2 GiB]"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "can't allocate memory"),
        (MemoryError("Unable to allocate 8 GiB"), "error: Unable to allocate 8 GiB"),
        (MemoryError(), "error: out of memory"),
    ],
    ids=["clipfast", "torch, GPU", "torch, CPU", "numpy", "python"],
)
def test_memory_that_does_not_suffice_ends_with_a_message_and_code_2(classify, error, named):
    code, out, err = classify(error)
    assert (code, out) == (2, "")
    assert named in " ".join(err.split())
    assert "Traceback" not in err


@pytest.mark.parametrize("error", [RuntimeError("a fault"), NotImplementedError("a fault")])
def test_faults_of_the_program_are_no_messages(classify, error):
    with pytest.raises(type(error), match="a fault"):
        classify(error)


def test_a_missing_package_ends_with_its_extra_and_code_2(run, tmp_path):
    writing = [name for name in sys.modules if name.startswith("clipfast.exporters.onnx")]
    with absent("onnx_ir", *writing):
        code, out, err = run("export", "-o", tmp_path / "a.onnx")
    assert (code, out) == (2, "")
    assert "needs onnx_ir, which is not installed: pip install 'clipfast[torch]'" in " ".join(err.split())
    assert list(tmp_path.iterdir()) == []


def test_choices_are_those_of_the_library():
    assert get_args(FormatName) == tuple(FORMATS)
    assert get_args(BudgetName) == tuple(BUDGETS)
    choices, _ = get_args(options.EnginePrecision)
    assert get_args(choices) == tuple(precision._DTYPES)


@pytest.mark.parametrize(
    ("command", "option", "choices"),
    [
        ("classify", "--precision", "'fp32', 'bf16', 'fp16'"),
        ("export", "--format", "'onnx', 'torchscript', 'aotinductor'"),
        ("export", "--profile", "'serving', 'lab'"),
        ("export", "--precision", "'fp32', 'fp16', 'int8'"),
        ("export", "--pixels", "'float32', 'uint8'"),
        ("eval", "--budget", "'quick', 'full'"),
        ("calibrate", "--attack", "'pgd'"),
    ],
)
def test_another_choice_is_a_mistake_that_lists_them(run, monkeypatch, command, option, choices):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = run(command, option, "other")
    assert (code, out) == (2, "")
    assert f"Invalid value for '{option}'" in err
    assert "'other' is not" in err
    assert choices in err
