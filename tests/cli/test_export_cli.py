"""`clipfast export` and `clipfast verify`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re

import numpy as np
import onnx
import pytest
from hand_made import make_metadata, write_onnx
from onnx import numpy_helper
from PIL import Image

from clipfast import CounterattackConfig
from clipfast.models.shapes import draw
from clipfast.runtime import load_artifact, sha256_of


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    for i, pixels in enumerate(draw(1, seed=(200, 13)).pixels):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / "pictures" / f"{i}.png")
    return tmp_path


def test_an_export_is_verified_described_and_verified_again(run, folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    config, out = folder / "config.json", folder / "model.onnx"
    config.write_text(CounterattackConfig(tau_threshold=0.03, pass_through="clean").to_json())
    code, printed, err = run(
        "export", "-o", out, "--profile", "lab", "--static", "--pixels", "uint8", "--license", "MIT",
        "--classnames", "red circle, blue star", "--config", config,
    )  # fmt: skip
    assert code == 0, err
    assert err.count("was not calibrated") == 1
    for expected in (
        "undefended logits",
        "displacement",
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, profile lab",
        "inputs: pixels uint8 [1, 3, 96, 96], noise float32 [1, 3, 96, 96], tau_threshold float32 [1]",
        "outputs: logits float32 [1, 2], undefended_logits float32 [1, 2]",
        f"sha256: {hashlib.sha256(out.read_bytes()).hexdigest()}",
    ):
        assert expected in printed
    with pytest.warns(UserWarning, match="not calibrated"):
        metadata = load_artifact(out).metadata
    assert (metadata.static, metadata.license) == (True, "MIT")
    assert metadata.classnames == ("red circle", "blue star")
    assert metadata.config == CounterattackConfig.from_json(config.read_text())
    code, printed, err = run("verify", out, "--images", folder / "pictures")
    assert code == 0, err
    assert err.count("was not calibrated") == 1
    assert "agrees with the reference" in printed
    for runtime in ("onnxruntime", "openvino", "reference"):
        assert re.search(rf"^ +{runtime} *$", printed, re.MULTILINE)
    rows = re.findall(r"undefended logits .* 6 ", printed)
    assert len(rows) == 3  # two pictures each, the gate closed, open and mixed
    code, printed, err = run("verify", out, "--images", folder / "pictures", "--provider", "cpu")
    assert code == 0, err
    assert "onnxruntime" in printed
    assert "openvino" not in printed


def test_a_file_that_disagrees_ends_with_code_1(run, exported, folder):
    model = onnx.load(exported("static").path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "logit_scale")
    tensor.CopyFrom(numpy_helper.from_array(np.float32(28.0), "logit_scale"))
    path = folder / "altered.onnx"
    onnx.save(model, path)
    code, printed, err = run("verify", path, "--images", folder / "pictures")
    assert code == 1
    assert "undefended logits" in printed
    for runtime in ("onnxruntime", "openvino", "reference"):
        assert f"in {runtime}: undefended logits" in " ".join(err.split())
    assert "agrees with" not in printed


def test_the_digest_is_of_what_is_verified(run, exported, folder):
    path = exported("static").path
    pictures = ["--images", folder / "pictures", "--runtime", "onnxruntime"]
    code, _, err = run("verify", path, *pictures, "--sha256", "0" * 64)
    assert code == 2
    digest = sha256_of(path)
    assert f"expected the SHA-256 {'0' * 64}, got {digest}" in err
    code, printed, err = run("verify", path, *pictures, "--sha256", digest.upper())
    assert code == 0, err
    assert f"sha256: {digest.upper()}" in printed


def test_what_a_file_says_of_itself_is_told_and_held_against_settings(run, exported, folder):
    path, config = exported("static").path, folder / "config.json"
    pictures = ["--images", folder / "pictures", "--runtime", "onnxruntime"]
    own = exported("static").metadata.config
    config.write_text(own.to_json())
    code, printed, err = run("verify", path, *pictures, "--config", config)
    assert code == 0, err
    assert f"settings: {json.dumps(dataclasses.asdict(own))}" in printed
    assert "calibrated for this model: yes" in printed
    assert "precision: fp32" in printed
    assert "pictures: " in printed
    config.write_text(dataclasses.replace(own, tau_threshold=0.5, calibrated_for=None).to_json())
    code, _, err = run("verify", path, *pictures, "--config", config)
    assert code == 2
    assert "its metadata has config" in err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["export", "-o", "{}/model.bin"], "expected a file named .onnx, .ts.pt or .pt2"),
        (["export", "-o", "{}/model.bin", "--format", "onnx"], "ends in .onnx for onnx"),
        (["export", "-o", "{}/gone/model.onnx"], "no such folder"),
        (
            ["export", "-o", "{}/model.onnx", "--batch", "some"],
            "--batch must be a positive number or dynamic",
        ),
        (["export", "-o", "{}/model.onnx", "--batch", "0"], "--batch must be a positive number or dynamic"),
        (["export", "-o", "{}/model.onnx", "--opset", "9"], "opset must be one of"),
        (["export", "-o", "{}/model.onnx", "--model", "ViT-B-32"], "needs --pretrained"),
        (
            ["export", "-o", "{}/model.onnx", "--precision", "int8"],
            "precision 'int8' is refused",
        ),
        (["verify", "{}/gone.onnx"], "cannot read"),
        (["verify", "{}/pictures"], "cannot read"),
        (["verify", "{}/pictures/0.png"], "expected a file named .onnx"),
    ],
)
def test_mistakes_end_with_a_message_and_code_2(run, folder, arguments, named):
    before = sorted(folder.rglob("*"))
    code, out, err = run(*(argument.format(folder) for argument in arguments))
    assert code == 2
    assert named in " ".join(err.split())
    assert "Traceback" not in err
    assert out == ""
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("said", "named"), [("{", "its metadata is no JSON"), ("", "carries no clipfast metadata")]
)
def test_metadata_that_cannot_be_read_name_the_file(run, tmp_path, said, named):
    path = write_onnx(tmp_path / "a.onnx", make_metadata(), said=said)
    code, _, err = run("verify", path)
    assert code == 2
    assert f"a.onnx: {named}" in " ".join(err.split())


def test_a_model_that_does_not_fit_the_file_is_a_mistake(run, exported):
    code, _, err = run("verify", exported("static").path, "--against", "ViT-B-32")
    assert code == 2
    assert "ViT-B-32 needs weights (--pretrained)" in err
