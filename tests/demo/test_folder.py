"""The demo on pictures of the user's own."""

from __future__ import annotations

import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from clipfast import CounterattackConfig, InputError
from clipfast.demo import experiment
from clipfast.demo.subject import ModelChoice, folder_subject
from clipfast.models.shapes import CLASSNAMES, draw

N = 12


@pytest.fixture(scope="module")
def pictures():
    return draw(N, seed=(200, 77), size=120)


@pytest.fixture
def class_folders(pictures, tmp_path):
    folder = tmp_path / "holidays"
    for i, (pixels, label) in enumerate(zip(pictures.pixels, pictures.labels, strict=True)):
        file = folder / CLASSNAMES[label].replace(" ", "_") / f"no {i:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.transpose(1, 2, 0)).save(file)
    return folder


@pytest.fixture
def loose(pictures, tmp_path):
    folder = tmp_path / "loose"
    folder.mkdir()
    for i, pixels in enumerate(pictures.pixels):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / f"{i:02d}.png")
    (folder / "broken.png").write_bytes(b"none")
    return folder


def test_labels_are_the_class_folders(class_folders, pictures):
    subject = folder_subject(class_folders, ModelChoice(), None, images=100, seed=1)
    assert subject.classifier.classnames == CLASSNAMES
    assert sorted(subject.labels.tolist()) == sorted(pictures.labels.tolist())
    assert len(set(subject.names)) == N
    assert all(name[:7] == f"{i:03d}-no-" for i, name in enumerate(subject.names))
    for name, pixels, label in zip(subject.names, subject.pixels, subject.labels.tolist(), strict=True):
        i = int(name[-2:])
        assert label == pictures.labels[i]
        wanted = subject.classifier.preprocess(pictures.pixels[i].transpose(1, 2, 0))
        assert np.array_equal(pixels.numpy(), wanted)
    assert subject.described.pictures == f"{N} pictures of holidays (labels are the class folders')"
    assert subject.twin is not None
    assert not subject.defended["published"].config.is_fixed
    assert subject.defended["recommended"].config == CounterattackConfig.recommended()


def test_of_loose_pictures_labels_are_clips_own_answers(loose):
    subject = folder_subject(loose, ModelChoice(), ("red circle", "blue star"), images=100, seed=1)
    assert len(subject.labels) == N
    answers = subject.classifier.undefended(subject.pixels).argmax(1)
    assert torch.equal(subject.labels, answers)
    assert "undefended model's own answers" in subject.described.pictures
    assert "1 more could not be read" in subject.described.pictures


def test_folders_that_are_no_classes_are_loose_pictures(class_folders):
    subject = folder_subject(class_folders, ModelChoice(), ("red circle", "blue star"), images=4, seed=1)
    assert len(subject.labels) == 4
    assert "own answers" in subject.described.pictures


@pytest.mark.usefixtures("registered")
def test_any_model_from_the_command_line(run, tmp_path, loose, monkeypatch):
    def still_right(*given, progress, **_):
        progress(1)
        return given[3]

    monkeypatch.setattr(experiment, "still_right", still_right)
    torch.manual_seed(0)
    save_file(open_clip.create_model("tiny-test").state_dict(), tmp_path / "tiny.safetensors")
    named = ["--model", "tiny-test", "--pretrained", tmp_path / "tiny.safetensors", "--classnames", "cat,dog"]
    out = tmp_path / "out"
    mine = out / "clean" / "mine.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"kept")
    (out / "pictures.json").write_text(json.dumps(["../loose/00.png", "clean/../../loose/01.png"]))
    code, printed, err = run("demo", "--images", loose, *named, "--number", 9, "--out", out)
    assert code == 0, err
    said = " ".join(printed.split())
    assert "tiny-test" in said
    assert "fine-tuned twin" not in said
    assert "clipfast calibrate" in said
    assert "leave" in said
    assert "twin" not in said
    page = (out / "index.html").read_text()
    assert "names the pictures of loose." in page
    assert "drawn pictures" not in page
    code, *_ = run("demo", "--images", loose, *named, "--number", 5, "--out", out)
    assert code == 0
    for kind in ("clean", "attacked"):
        left = {file.name for file in (out / kind).iterdir()} - {"mine.png"}
        assert len(left) == 5
    assert mine.read_bytes() == b"kept"
    assert len(list(loose.iterdir())) == N + 1  # a list of files that names others' removes none


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", "gone"], "expected a folder of pictures, got gone"),
        (["--model", "drawn"], "--model drawn needs --images"),
        (["--images", ".", "--model", "ViT-B-32"], "needs --pretrained"),
        (["--images", ".", "--pretrained", "openai"], "needs --model"),
    ],
)
def test_what_is_missing_is_named(run, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("demo", *options, "--out", tmp_path / "out")
    assert code == 2
    assert message in " ".join(err.split())
    assert not (tmp_path / "out").exists()


def test_other_models_need_class_names(loose):
    with pytest.raises(InputError, match="expected class names"):
        folder_subject(loose, ModelChoice("ViT-B-32", "openai"), None, images=4, seed=0)
