"""A command loads a model, reads its weights for their name, and opens a file once each."""

from __future__ import annotations

import shutil
from collections import Counter

import onnxruntime
import open_clip
import pytest
import torch
from hand_made import make_metadata, make_onnx, write_onnx
from PIL import Image
from safetensors.torch import save_file
from tiny_budget import TINY

from clipfast.artifacts.metadata import Metadata
from clipfast.evaluation import budgets
from clipfast.evaluation import evaluate as evaluating
from clipfast.exporters.onnx import writer
from clipfast.models import fingerprint as fingerprints
from clipfast.models.bundled import bundled_folder
from clipfast.models.fingerprint import fingerprint
from clipfast.models.shapes import draw

NAMES = ("red circle", "blue star", "green square", "black circle")


@pytest.fixture
def done(monkeypatch) -> Counter[str]:
    """How often a model is loaded, a tower's weights are read for their name, and a file is opened."""
    counts: Counter[str] = Counter()

    def count(place: object, name: str, as_: str) -> None:
        real = getattr(place, name)

        def counted(*args, **kwargs):
            counts[as_] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(place, name, counted)

    count(open_clip, "create_model", "models")
    count(fingerprints, "_digest", "digests")
    count(onnxruntime, "InferenceSession", "files")
    monkeypatch.setitem(budgets.BUDGETS, "quick", TINY)
    return counts


@pytest.fixture
def folder(tmp_path):
    """Two pictures in folders named as their classes, and nothing else."""
    for name, pixels in zip(NAMES, draw(2, seed=(200, 41)).pixels, strict=False):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / "pictures" / name / "0.png")
    return tmp_path / "pictures"


def metadata_of(classifier, **changes) -> Metadata:
    """Of a file that was exported from a classifier with other class names."""
    return make_metadata(
        model_name="drawn",
        weights_sha256=fingerprint(classifier.image_tower.model.visual),
        config=classifier.config,
        classnames=NAMES,
        templates=classifier.templates,
        preprocess=classifier.preprocess,
        static=True,
        batch=1,
        **changes,
    )


def test_export(run, tmp_path, monkeypatch, done):
    def write(graph, examples, metadata, path, **_):  # noqa: ARG001
        path.write_bytes(make_onnx(Metadata.from_json(metadata)).SerializeToString())

    monkeypatch.setattr(writer, "write", write)
    code, _, err = run("export", "-o", tmp_path / "a.onnx", "--static", "--classnames", ",".join(NAMES))
    assert (code, "disagrees with the reference" in err) == (1, True)  # of colours, not the bundled model
    assert done == {"models": 1, "digests": 1, "files": 1}


def test_verify(run, tmp_path, folder, bundled, done):
    file = write_onnx(tmp_path / "a.onnx", metadata_of(bundled))
    done.clear()
    code, _, err = run("verify", file, "--runtime", "onnxruntime", "--images", folder)
    assert (code, "disagrees with the reference" in err) == (1, True)
    assert done == {"models": 1, "digests": 1, "files": 1}


def test_verify_of_a_fine_tuned_tower(run, tmp_path, folder, bundled, twin, done):
    drift = fingerprint(bundled.image_tower.model.visual)
    file = write_onnx(tmp_path / "a.onnx", metadata_of(twin, drift_weights_sha256=drift))
    done.clear()
    code, _, err = run("verify", file, "--runtime", "onnxruntime", "--images", folder)
    assert (code, "disagrees with the reference" in err) == (1, True)
    assert done == {"models": 1, "digests": 2, "files": 1}


def test_eval_of_the_bundled_model_and_its_twin(run, tmp_path, done):
    options = ["--defences", "ttc,ttc-twin", "--attacks", "pgd-10", "--images", 2]
    code, _, err = run("eval", *options, "-o", tmp_path / "out")
    assert code == 0, err
    assert done == {"models": 1, "digests": 2}


@pytest.mark.usefixtures("registered")
def test_eval_of_a_named_model_with_a_checkpoint_on_two_data_sets(run, tmp_path, folder, monkeypatch, done):
    shutil.copytree(folder, tmp_path / "others")
    monkeypatch.setattr(evaluating, "PAPER", (str(folder), str(tmp_path / "others")))
    weights = tmp_path / "weights.safetensors"
    for seed, file in enumerate((weights, tmp_path / "tuned.safetensors")):
        torch.manual_seed(seed)
        save_file(open_clip.create_model("tiny-test").state_dict(), file)
    done.clear()
    named = ["--model", "tiny-test", "--pretrained", weights, "--checkpoint", tmp_path / "tuned.safetensors"]
    options = ["--data", "paper", "--defences", "ttc,ttc-twin", "--attacks", "pgd-10"]
    code, _, err = run("eval", *named, *options, "-o", tmp_path / "out")
    assert code == 0, err
    assert done == {"models": 1, "digests": 2}


def test_calibrate_of_a_fine_tuned_tower(run, tmp_path, folder, done):
    options = [
        "--checkpoint",
        bundled_folder("drawn") / "tecoa.pt",
        "--rate",
        0.5,
        "-o",
        tmp_path / "mine.json",
    ]
    code, _, err = run("calibrate", "--clean", folder, *options)
    assert code == 0, err
    assert done == {"models": 1, "digests": 1}
