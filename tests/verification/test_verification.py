"""`verify` finds files that are wrong, and says what is wrong with them."""

from __future__ import annotations

import dataclasses
import json
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from huggingface_hub import constants
from onnx import helper, numpy_helper
from rich.console import Console

from clipfast import ArtifactError, CounterattackConfig, DefendedClassifier, InputError, UncalibratedWarning
from clipfast.artifacts.fields import KEY
from clipfast.artifacts.metadata import Metadata
from clipfast.exporters import verify
from clipfast.models.shapes import draw
from clipfast.verification.limits import limits_of
from clipfast.verification.outcome import CheckRow, Verification, at_most
from clipfast.verification.rebuilding import rebuilt
from clipfast.verification.sampled import _apart

EPS, STEP_SIZE, LAST_WEIGHT = 4 / 255, 1 / 255, 0.86681336  # the last is exp(4) / (1 + exp(2) + exp(4))


@pytest.fixture
def few():
    return draw(1, seed=(200, 12)).pixels


def tensors(model: onnx.ModelProto):
    return [(tensor, numpy_helper.to_array(tensor)) for tensor in model.graph.initializer]


def replace(tensor, values) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))


def scale_number(model: onnx.ModelProto, number: float, factor: float) -> None:
    """Changes the constants of this value and its negative."""
    found = [
        (t, a) for t, a in tensors(model) if a.size == 1 and np.isclose(abs(a.item()), number, rtol=1e-5)
    ]
    assert found, number
    for tensor, values in found:
        replace(tensor, values * np.float32(factor))


def scale_weight(model: onnx.ModelProto, factor: float) -> None:
    tensor, values = next((t, a) for t, a in tensors(model) if a.shape == (768, 192))
    replace(tensor, values * np.float32(factor))


def turn_classes(model: onnx.ModelProto) -> None:
    tensor, values = next((t, a) for t, a in tensors(model) if t.name == "class_weights")
    replace(tensor, np.roll(values, 1, axis=1))


def bake_threshold(model: onnx.ModelProto) -> None:
    (less,) = [node for node in model.graph.node if node.op_type == "Less"]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.0236), "baked"))
    less.input[1] = "baked"


def silence(model: onnx.ModelProto) -> None:
    """Starts from no noise, whatever is given."""
    for node in model.graph.node:
        node.input[:] = ["silent" if name == "noise" else name for name in node.input]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0), "nothing"))
    model.graph.node.insert(0, helper.make_node("Mul", ["noise", "nothing"], ["silent"]))


def scale_noise(model: onnx.ModelProto, factor: float) -> None:
    (uniform,) = [node for node in model.graph.node if node.op_type == "RandomUniformLike"]
    for attribute in uniform.attribute:
        if attribute.name in ("low", "high"):
            attribute.f *= factor


def draw_once(model: onnx.ModelProto) -> None:
    (uniform,) = [node for node in model.graph.node if node.op_type == "RandomUniformLike"]
    noise = np.random.default_rng(0).uniform(-EPS, EPS, (1, 3, 96, 96)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(noise, uniform.output[0]))
    model.graph.node.remove(uniform)


def set_threshold(model: onnx.ModelProto) -> None:
    tensor, _ = next((t, a) for t, a in tensors(model) if t.name == "threshold")
    replace(tensor, np.float32(0.01))


def altered(path: Path, folder: Path, alter) -> Path:
    model = onnx.load(path)
    alter(model)
    onnx.save(model, folder / path.name)
    return folder / path.name


@pytest.mark.parametrize(
    ("kind", "alter", "failed"),
    [
        ("lab", lambda model: scale_weight(model, 1.001), "undefended logits"),
        ("lab", turn_classes, "undefended logits"),
        ("lab", lambda model: scale_number(model, EPS, 1.1), "delta beyond eps"),
        ("lab", lambda model: scale_number(model, EPS, 0.98), "delta, countered, mean"),
        ("lab", lambda model: scale_number(model, STEP_SIZE, 0.98), "delta, countered, mean"),
        ("lab", lambda model: scale_number(model, LAST_WEIGHT, 0.99), "delta, countered, mean"),
        ("lab", silence, "drift"),
        ("static", lambda model: scale_number(model, STEP_SIZE, 0.98), "logits, countered, mean"),
        ("fp16", lambda model: scale_number(model, EPS, 1.1), "delta beyond eps"),
        ("fp16", lambda model: scale_number(model, STEP_SIZE, -1), "displacement, mean"),
        ("serving", lambda model: scale_noise(model, 0.5), "mean drift of all, standard errors"),
        (
            "serving",
            lambda model: scale_number(model, STEP_SIZE, -1),
            "mean shift of logits of all, standard errors",
        ),
        ("serving", draw_once, "different drifts of 16 draws"),
    ],
)
def test_a_wrong_file_is_found(kind, alter, failed, exported, bundled, few, tmp_path):
    path = altered(exported(kind).path, tmp_path, alter)
    verification = verify(path, bundled, images=few)
    print(verification.failures)
    assert not verification.agrees
    assert failed in [row.check for row in verification.rows if not row.ok]
    assert f"{failed} " in verification.failures


@pytest.mark.parametrize(
    ("kind", "alter"), [("lab", bake_threshold), ("static", set_threshold), ("serving", set_threshold)]
)
def test_another_threshold_than_the_file_s_own_shows_in_its_answers(
    kind, alter, exported, bundled, few, tmp_path
):
    path = altered(exported(kind).path, tmp_path, alter)
    with pytest.raises(
        ArtifactError, match=r"other thresholds: an image of drift 0\.0\d+ was (not )?countered"
    ):
        verify(path, bundled, images=few)


def test_what_no_answer_shows_is_the_model_s_own(exported, bundled, few, tmp_path):
    """A file that says so itself agrees with itself: in settings, preprocessing, and calibration."""
    metadata = exported("serving").metadata
    told = {
        "calibrated": dataclasses.replace(metadata, calibrated=False),
        "preprocess": dataclasses.replace(
            metadata, preprocess=dataclasses.replace(metadata.preprocess, interpolation="bilinear")
        ),
        "config": dataclasses.replace(
            metadata,
            config=dataclasses.replace(metadata.config, tau_threshold=0.0).calibrated(
                metadata.weights_sha256
            ),
        ),
    }
    for name, said in told.items():
        path = altered(exported("serving").path, tmp_path, partial(retell, said=said))
        with pytest.raises(ArtifactError, match=f"its metadata has {name} "):
            verify(path, bundled, images=few)


def retell(model: onnx.ModelProto, said: Metadata) -> None:
    (entry,) = [entry for entry in model.metadata_props if entry.key == KEY]
    entry.value = said.to_json()


def test_answers_that_are_no_numbers_are_the_file_s_fault(exported, bundled, few, tmp_path):
    path = altered(exported("static").path, tmp_path, lambda model: scale_weight(model, np.nan))
    with pytest.raises(ArtifactError, match=r"static\.onnx: expected a finite drift"):
        verify(path, bundled, images=few)


def test_any_images_and_implementation(exported, few):
    path = exported("static").path
    reference = DefendedClassifier.bundled(preset="published", implementation="reference")
    verification = verify(path, reference, images=few)
    assert verification.agrees, verification.failures
    assert verify(path, reference, images=few.astype(np.float64) / 255) == verification
    assert verification.rows[0].n == 2 * len(few)
    with pytest.raises(InputError, match="at least one image"):
        verify(path, reference, images=few[:0])
    with pytest.raises(InputError, match="expected pixels"):
        verify(path, reference, images=few[..., :90])


def test_tolerance_takes_the_place_of_the_limit(exported, bundled, few):
    verification = verify(exported("static").path, bundled, images=few, tolerance=1e-12)
    failed = {row.check: row.limit for row in verification.rows if not row.ok}
    assert failed["undefended logits"] == 1e-12
    assert "drift" not in failed


def test_another_classifier_s_file_is_an_error(exported, bundled, twin, few):
    path = exported("static").path
    with pytest.raises(ArtifactError, match=r"another classifier: .* has weights_sha256 .*, expected "):
        verify(path, twin, images=few)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UncalibratedWarning)
        other = DefendedClassifier.bundled(config=dataclasses.replace(bundled.config, steps=3))
    with pytest.raises(ArtifactError, match=r"has config .*steps=2.*, expected .*steps=3"):
        verify(path, other, images=few)
    with pytest.raises(ArtifactError, match=r"has classnames .*red circle.*, expected .*red star"):
        verify(path, DefendedClassifier.bundled(classnames=["red star", "blue star"]), images=few)


def test_rebuilt_is_the_classifier_that_was_exported(exported, bundled):
    metadata = exported("lab").metadata
    again = rebuilt(metadata)
    assert (again.classnames, again.templates, again.config, again.source) == (
        bundled.classnames,
        bundled.templates,
        bundled.config,
        bundled.source,
    )
    assert torch.equal(again.class_weights, bundled.class_weights)
    assert rebuilt(metadata, model_name="drawn").drift_tower is None
    older = dataclasses.replace(metadata, model_name="bundled")  # while one model came with clipfast
    assert rebuilt(older).source == bundled.source
    assert rebuilt(dataclasses.replace(metadata, drift_weights_sha256="0" * 64)).drift_tower is not None


@pytest.mark.parametrize(
    ("changes", "options", "named"),
    [
        ({"model_name": None}, {}, "names no model"),
        ({"model_name": "ViT-B-32"}, {}, "ViT-B-32 needs weights"),
        ({"model_name": "ViT-B-32", "drift_weights_sha256": "0" * 64}, {}, "fine-tuned ViT-B-32"),
        ({}, {"pretrained": "openai"}, "brings its own weights"),
        ({}, {"model_name": "ViT-B-32", "pretrained": "openai"}, "QuickGELU"),
        (
            {"model_name": "ViT-B-32", "pretrained": "gone.pt"},
            {},
            r"'gone.pt', which are not read at a file's word",
        ),
        (
            {"model_name": "ViT-B-32", "pretrained": "../x.pt"},
            {},
            r"'../x.pt', which are not read at a file's",
        ),
        ({"model_name": "local-dir:/tmp"}, {}, "'local-dir:/tmp', which is not loaded at a file's word"),
        ({"model_name": "hf-hub:org/model"}, {}, "'hf-hub:org/model', which is not loaded at a file's word"),
        ({"model_name": "/etc"}, {}, "'/etc', which is not loaded at a file's word"),
        (
            {"model_name": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"},
            {},
            "could not load 'ViT-B-32' with weights 'laion2b_s34b_b79k' from this machine alone",
        ),
    ],
)
def test_what_cannot_be_rebuilt(exported, changes, options, named):
    with pytest.raises(InputError, match=named):
        rebuilt(dataclasses.replace(exported("lab").metadata, **changes), **options)


def test_at_a_file_s_word_nothing_is_downloaded(exported, monkeypatch):
    asked = []

    def fetch(url, *_, **__):
        asked.append((url, constants.HF_HUB_OFFLINE))
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", fetch)
    monkeypatch.setattr("open_clip.pretrained.hf_hub_download", fetch)
    for tag in ("laion2b_s34b_b79k", "openai"):  # on the hub, and elsewhere
        said = dataclasses.replace(exported("lab").metadata, model_name="ViT-B-32-quickgelu", pretrained=tag)
        with pytest.raises(InputError):
            rebuilt(said)
    assert all(offline for _, offline in asked)
    assert not constants.HF_HUB_OFFLINE


def test_a_verification_as_table_and_json():
    good, bad = CheckRow("drift", 1e-6, 1e-5, 24), CheckRow("displacement", 0.5, 0.9, 3, least=True)
    assert Verification((good,)).agrees
    verification = Verification((good, bad))
    assert not verification.agrees
    assert verification.failures == "displacement 0.5, allowed at least 0.9"
    assert not CheckRow("drift", float("nan"), 1e-5, 24).ok
    assert not CheckRow("displacement", float("nan"), 0.9, 3, least=True).ok
    assert json.loads(json.dumps(verification.to_dict())) == {
        "agrees": False,
        "rows": [
            {"check": "drift", "worst": 1e-6, "limit": 1e-5, "n": 24, "least": False, "ok": True},
            {"check": "displacement", "worst": 0.5, "limit": 0.9, "n": 3, "least": True, "ok": False},
        ],
    }
    console = Console(width=100)
    with console.capture() as captured:
        console.print(verification.table("openvino"))
    lines = captured.get().splitlines()
    assert any(line.strip() == "openvino" for line in lines)
    assert any("drift" in line and "at most 1e-05" in line and "ok" in line for line in lines)
    assert any("displacement" in line and "at least 0.9" in line and " no " in line for line in lines)


def test_nothing_to_check_is_no_row_and_nan_is_the_worst():
    assert at_most("logits, passed", torch.empty(0), 1.0) == []
    assert not at_most("logits, passed", torch.tensor([0.0, torch.nan, 0.5]), 1.0)[0].ok


def test_limits_follow_the_logit_scale_and_the_steps():
    two, three = (limits_of("fp32", CounterattackConfig(steps=steps), 50.0, None) for steps in (2, 3))
    assert two.logits == pytest.approx(1e-4)
    assert two.margin == pytest.approx(0.3)
    assert three.logits == two.logits
    assert three.strayed[0] > two.strayed[0]
    assert limits_of("fp32", CounterattackConfig(), 50.0, 0.5).logits == 0.5
    assert limits_of("fp16", CounterattackConfig(steps=3), 50.0, None).strayed is None


def test_means_that_differ_are_told_from_noise():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(2, 3000, 16, 5, generator=generator, dtype=torch.float64)
    assert _apart(ours[..., 0], theirs[..., 0], 1e-9).max() < 6
    assert _apart(ours, theirs, 1e-9).max() < 3  # of five numbers chance averages out
    far = _apart(ours[:, :, 0] + 4, theirs[:, :, 0], 1e-9)
    assert far.median() > 10
    assert (far > 6).double().mean() > 0.99
    constant = torch.ones(3, 16, dtype=torch.float64)
    assert torch.equal(_apart(constant, constant, 1e-9), torch.zeros(3, dtype=torch.float64))
    assert _apart(constant, 0 * constant, 1e-9).min() > 1e6
    assert _apart(constant, constant + 1e-3, 1e-3).max() == pytest.approx(1)
