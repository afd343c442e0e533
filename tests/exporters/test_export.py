"""Exports of the bundled model: what they say, that they agree, and what a failed one leaves behind."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from conftest import make_classifier, make_tiny_clip, pixels
from lab import DEPTHS, STAGES, VIEWS_ALONE

from clipfast import (
    CounterattackConfig,
    InputError,
    UncalibratedWarning,
    VerificationError,
    __version__,
)
from clipfast.artifacts.formats import FORMATS
from clipfast.artifacts.metadata import LIMITS, Metadata
from clipfast.exporters import export, verify
from clipfast.exporters.onnx import writer as to_onnx
from clipfast.models.fingerprint import fingerprint
from clipfast.models.shapes import draw
from clipfast.runtime import OnnxClassifier

RUNTIMES = tuple(runtime.name for runtime in FORMATS["onnx"].runtimes)


@pytest.fixture
def few():
    return draw(2, seed=(200, 12)).pixels


@pytest.fixture
def beside(tmp_path):
    """A path where an older file stands."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"older")
    return path


@pytest.mark.parametrize(
    ("kind", "runtime"),
    [
        pytest.param(kind, runtime, marks=pytest.mark.slow if slow else ())
        for kind in ("lab", "serving", "static", "fp16")
        for runtime in RUNTIMES
        for slow in [runtime == "reference" and kind in ("serving", "fp16")]
    ],
)
def test_every_kind_agrees_with_the_reference(kind, runtime, exported, bundled, few):
    verification = verify(exported(kind).path, bundled, runtime=runtime, images=few)
    print(verification.to_dict())
    assert verification.agrees, verification.failures


@pytest.mark.parametrize(
    ("kind", "inputs", "outputs"),
    [
        ("lab", ["pixels", "noise", "tau_threshold"], 5),
        ("serving", ["pixels"], 4),
        ("static", ["pixels", "noise"], 4),
        ("fp16", ["pixels", "noise", "tau_threshold"], 5),
    ],
)
def test_the_file_is_what_its_metadata_says(kind, inputs, outputs, exported, bundled):
    model = onnx.load(exported(kind).path)
    (entry,) = model.metadata_props
    metadata = Metadata.from_json(entry.value)
    assert metadata == exported(kind).metadata
    assert metadata.classnames == bundled.classnames
    assert metadata.templates == bundled.templates
    assert metadata.config == bundled.config
    assert metadata.calibrated
    assert metadata.preprocess == bundled.preprocess
    assert (metadata.model_name, metadata.pretrained) == ("drawn", None)
    assert metadata.weights_sha256 == fingerprint(bundled.image_tower.model.visual)
    assert metadata.drift_weights_sha256 is None
    assert metadata.versions["clipfast"] == __version__
    assert metadata.versions["torch"] == torch.__version__
    assert metadata.limits == LIMITS
    assert metadata.license == "Apache-2.0"
    assert [node.name for node in model.graph.input] == inputs
    assert len(model.graph.output) == outputs
    (domain,) = model.opset_import
    assert domain.version == (21 if kind == "fp16" else 20)


def test_an_export_is_compared_before_it_is_in_its_place(tiny_clip, tokenizer, beside):
    templates, steps = [lambda name: f"this is {name}"], []
    classifier = make_classifier(
        tiny_clip, tokenizer, templates=templates, config=CounterattackConfig(steps=3)
    )
    made = export(classifier, beside, profile="lab", static=True, progress=steps.append)
    assert made.path == beside
    assert set(made.verifications) == set(RUNTIMES)
    assert all(verification.agrees for verification in made.verifications.values())
    assert made.metadata.license == "that of the model's weights"
    assert made.metadata.templates == ("this is {}",)
    assert not made.metadata.calibrated
    assert steps[0].startswith("tracing")
    for runtime in RUNTIMES:
        assert any(step.startswith(f"{runtime}: comparing") for step in steps)
    assert list(beside.parent.iterdir()) == [beside]
    onnx.checker.check_model(str(beside), full_check=True)


def test_a_drift_tower_in_l2(tokenizer, beside):
    config = CounterattackConfig(norm="l2", eps=1.0, step_size=0.5, tau_threshold=0.1)
    tower, drift_model = make_tiny_clip(1, sensitive=True), make_tiny_clip(2, sensitive=True)
    classifier = make_classifier(tower, tokenizer, config=config, drift_model=drift_model)
    made = export(classifier, beside, profile="lab", batch=4, license="CC0-1.0")
    assert made.metadata.weights_sha256 == fingerprint(tower.visual)
    assert made.metadata.drift_weights_sha256 == fingerprint(drift_model.visual)
    assert (made.metadata.config, made.metadata.license) == (config, "CC0-1.0")


def test_a_file_that_disagrees_is_not_left(classifier, beside):
    with pytest.raises(
        VerificationError, match=r"model\.onnx in onnxruntime disagrees .* undefended logits .* at most 0"
    ):
        export(classifier, beside, static=True, tolerance=0.0)
    assert beside.read_bytes() == b"older"
    assert list(beside.parent.iterdir()) == [beside]


def test_a_file_that_cannot_be_written_is_not_left(classifier, beside, monkeypatch):
    def fail(graph, examples, metadata, path, **_):  # noqa: ARG001
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(to_onnx, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        export(classifier, beside)
    assert beside.read_bytes() == b"older"
    assert list(beside.parent.iterdir()) == [beside]


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("model.onnx", {"format": "tflite"}, "format must be one of"),
        ("model.onnx", {"precision": "bf16"}, "precision must be one of"),
        ("model.onnx", {"profile": "demo"}, "profile must be one of"),
        ("model.onnx", {"pixels": "float16"}, "pixels must be one of"),
        ("model.onnx", {"opset": 11}, "opset must be one of"),
        ("model.onnx", {"outputs": ["logits", "noise"]}, "outputs must be of logits, .*, got 'noise'"),
        ("model.onnx", {"outputs": ["logits"]}, "among the outputs, got none of drift, countered"),
        (
            "model.onnx",
            {"outputs": ["logits", "drift", "countered", "delta"]},
            "the output delta needs profile 'lab', got 'serving'",
        ),
        ("model.pt", {}, r"ends in \.onnx for onnx"),
        ("model.onnx", {"format": "aotinductor"}, r"ends in \.pt2 for aotinductor"),
        ("none/model.onnx", {}, "no such folder"),
    ],
)
def test_options_that_cannot_be(classifier, tmp_path, name, options, named):
    with pytest.raises(InputError, match=named):
        export(classifier, tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("profile", "kind"),
    [
        ("lab", "agreement, towards, views"),
        ("lab", "both pass, views seen"),
        ("lab", "mean tokens, then embeddings"),
        pytest.param("serving", "agreement, towards, views", marks=pytest.mark.slow),
        pytest.param("lab", "high noise, no steps, views", marks=pytest.mark.slow),
    ],
)
def test_files_of_other_stages_are_verified(tiny_clip, tokenizer, beside, profile, kind):
    config = CounterattackConfig(**(STAGES | DEPTHS)[kind], tau_threshold=0.97)
    classifier = make_classifier(tiny_clip, tokenizer, config=config)
    made = export(classifier, beside, profile=profile)
    assert made.metadata.config == config
    assert set(made.verifications) == set(RUNTIMES)
    assert all(verification.agrees for verification in made.verifications.values())


@pytest.mark.parametrize("profile", ["lab", pytest.param("serving", marks=pytest.mark.slow)])
def test_outputs_that_were_asked_for_and_no_others(tiny_clip, tokenizer, beside, profile):
    config = CounterattackConfig(tau_threshold=0.3, pass_through="clean")
    classifier, x = make_classifier(tiny_clip, tokenizer, config=config), pixels(6)
    made = export(classifier, beside, profile=profile, outputs=["embedding", "countered", "logits", "drift"])
    assert made.metadata.outputs == ("logits", "drift", "countered", "embedding")
    for verification in made.verifications.values():
        assert verification.agrees
        assert "logits of the embedding" in {row.check for row in verification.rows}
        assert "undefended logits" not in {row.check for row in verification.rows}
    with pytest.warns(UncalibratedWarning):
        artifact = OnnxClassifier(beside)
    if profile == "lab":
        answer, expected = artifact.predict(x.numpy(), seed=1), classifier.predict(x, seed=1)
        np.testing.assert_allclose(answer.embedding, expected.embedding.numpy(), atol=1e-3)
        with pytest.raises(InputError, match=r"with_delta needs a file with the output delta, .*model\.onnx"):
            artifact.predict(x.numpy(), with_delta=True)
    else:
        answer = artifact.predict(x.numpy())
    assert answer.embedding.shape == (6, 24)
    assert np.isnan(answer.undefended_logits).all()
    assert not answer.changed.any()
    assert artifact.stats().images == 6


def test_what_is_not_asked_for_is_not_computed(tiny_clip, tokenizer, beside):
    """Two views, and f(x) beside them for what plain CLIP answers."""
    classifier = make_classifier(tiny_clip, tokenizer, config=CounterattackConfig(**VIEWS_ALONE))
    counts = []
    for outputs in (None, ["logits", "drift", "countered"]):
        export(classifier, beside, outputs=outputs, verify=False)
        counts.append(sum(node.op_type == "Gemm" for node in onnx.load(beside).graph.node))
    assert counts[0] == counts[1] * 2  # the views are one batch


@pytest.mark.parametrize("profile", ["lab", pytest.param("serving", marks=pytest.mark.slow)])
def test_a_file_without_a_gate_is_verified_and_counters_nothing(tiny_clip, tokenizer, beside, profile):
    classifier = make_classifier(tiny_clip, tokenizer, config=CounterattackConfig(**VIEWS_ALONE))
    made = export(classifier, beside, profile=profile)
    assert set(made.verifications) == set(RUNTIMES)
    assert all(verification.agrees for verification in made.verifications.values())
    assert made.metadata.calibrated
    x = pixels(5)
    answer = OnnxClassifier(beside).predict(x.numpy())
    expected = classifier.predict(x, with_undefended=True)
    np.testing.assert_allclose(answer.logits, expected.logits.numpy(), atol=1e-3)
    np.testing.assert_allclose(answer.undefended_logits, expected.undefended_logits.numpy(), atol=1e-3)
    assert not answer.countered.any()
    assert not answer.drift.any()


def test_int8_is_refused_by_name(bundled, beside):
    with pytest.raises(InputError, match="precision 'int8' is refused, as it has not been shown to keep"):
        export(bundled, beside, precision="int8")
    assert beside.read_bytes() == b"older"
