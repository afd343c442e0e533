"""All gates on the same pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_classifier, make_tiny_clip, pixels

from clipfast import CounterattackConfig, InputError
from clipfast.calibration.calibrating import CalibrationRequest
from clipfast.calibration.gates import calibrate_gates, candidate_gates, plot_gates, recommended_gate
from clipfast.calibration.plot import plot
from clipfast.calibration.separation import separation

N = 12


@pytest.fixture(params=[False, True], ids=["one tower", "drift tower"])
def classifier(request, tiny_clip, tokenizer):
    other = make_tiny_clip(seed=4, sensitive=True) if request.param else None
    return make_classifier(tiny_clip, tokenizer, drift_model=other)


@pytest.fixture
def folders(tmp_path):
    """Files of which there is nothing but their names: `batches` knows their pixels."""
    for name in ("clean", "attacked"):
        (tmp_path / name).mkdir()
        for i in range(N):
            (tmp_path / name / f"{i:02d}.png").touch()
    return tmp_path


def batches(files: list[Path]):
    seed = 1 if files[0].parent.name == "clean" else 2
    whole = pixels(N, seed=seed).numpy()
    for i in range(0, N, 5):
        yield files[i : i + 5], whole[i : i + 5]


@pytest.mark.filterwarnings("ignore:tau_threshold:clipfast.UncalibratedWarning")
def test_each_gate_measures_what_the_classifier_does(classifier, folders):
    request = CalibrationRequest(clean=folders / "clean", attacked=folders / "attacked", rate=0.25, seed=3)
    found = calibrate_gates(classifier, request, batches)
    blocks = classifier.measuring_tower.blocks
    candidates = candidate_gates(classifier.config, classifier.image_size, blocks)
    assert "agreement, blur, after block 1" in candidates
    assert list(found) == list(candidates)
    for name, config in candidates.items():
        one = found[name]
        defended = classifier.with_config(config)
        for side, seed in ((one.clean, 1), (one.attacked, 2)):
            drift = defended.predict(pixels(N, seed=seed), seed=3).drift
            np.testing.assert_allclose(side.drift, drift.numpy(), rtol=2e-4, atol=2e-6)
        assert one.config.is_calibrated(classifier.drift_weights)
        assert (one.clean.drift < one.config.tau_threshold).sum() == N // 4
        assert one.separation == separation(one.clean.drift, one.attacked.drift, seed=3)
        assert one.config.pass_through == ("noise" if name == "drift" else "clean")
        assert replace(one.config, tau_threshold=0.2, calibrated_for=None) == config


def test_a_plot_says_what_its_gate_measures(tiny_clip, tokenizer, folders):
    request = CalibrationRequest(clean=folders / "clean", attacked=folders / "attacked", rate=0.25)
    found = calibrate_gates(make_classifier(tiny_clip, tokenizer), request, batches)
    for name, measure in (("drift", "drift"), ("agreement, blur", "agreement")):
        svg = plot(found[name])
        assert f">{measure}</text>" in svg
        assert f"low {measure} as a sign of attack" in svg
        # Cosines that crowd below 1 have ticks close to it.
        assert (">0.99</text>" in svg or ">0.999</text>" in svg) == (measure == "agreement")


def test_an_attack_is_made_once_for_all_gates(tiny_clip, tokenizer, folders):
    classifier = make_classifier(tiny_clip, tokenizer)
    request = CalibrationRequest(clean=folders / "clean", attack_eps=4 / 255, rate=0.25)
    found = calibrate_gates(classifier, request, batches)
    assert {len(one.attacked) for one in found.values()} == {N}
    assert all((one.attacked.drift != one.clean.drift).all() for one in found.values())
    svg = plot_gates(found)
    assert all(name in svg for name in found)


def test_the_best_gate_is_sure_to_be_better_than_chance(tiny_clip, tokenizer, folders):
    request = CalibrationRequest(clean=folders / "clean", attacked=folders / "attacked", rate=0.25)
    found = calibrate_gates(make_classifier(tiny_clip, tokenizer), request, batches)
    clean = np.linspace(0.5, 0.6, N, dtype=np.float32)

    def made(attacked, one=found["drift"]):
        return replace(one, separation=separation(clean, np.asarray(attacked, np.float32)))

    apart, near, inverted = made(clean - 0.2), made(clean - 0.03), made(clean + 0.2)
    other = CounterattackConfig(gate="agreement")
    assert recommended_gate({"a": near, "b": apart, "c": inverted}, other) == "b"
    assert recommended_gate({"c": inverted, "d": made(clean[::-1])}, other) is None
    # The gate that the settings have, if it separates, before one that separates better.
    own = made(clean - 0.03, found["agreement, blur"])
    assert recommended_gate({"b": apart, "blur": own}, other) == "blur"
    assert recommended_gate({"b": apart, "blur": own}, replace(other, transform="mirror")) == "b"
    assert recommended_gate({"b": near, "blur": made(clean + 0.2, found["agreement, blur"])}, other) == "b"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "expected attacked pictures or an attack, got clean ones alone"),
        ({"attack_eps": 1 / 255, "labels": True}, "expected a rate and no labels"),
        ({"attack_eps": 1 / 255, "rate": None, "balanced": True}, "expected a rate and no labels"),
    ],
)
def test_what_cannot_be_compared_is_named(tiny_clip, tokenizer, folders, options, said):
    with pytest.raises(InputError, match=said):
        calibrate_gates(
            make_classifier(tiny_clip, tokenizer),
            CalibrationRequest(clean=folders / "clean", **options),
            batches,
        )


def test_l2_is_refused(tiny_clip, tokenizer, folders):
    config = CounterattackConfig(norm="l2", eps=1.0, step_size=0.5)
    request = CalibrationRequest(clean=folders / "clean", attack_eps=1 / 255)
    with pytest.raises(InputError, match="expected a config of norm 'linf', got 'l2'"):
        calibrate_gates(make_classifier(tiny_clip, tokenizer, config=config), request, batches)


def test_candidates_fit_the_pictures():
    config = CounterattackConfig(steps=3)
    found = candidate_gates(config, (112, 160))
    assert "agreement, low_pass 20" in found
    assert all(one.steps == 3 for one in found.values())
    assert len({(one.gate, one.gate_noise, one.transform) for one in found.values()}) == len(found)
    both = CounterattackConfig(gate="agreement", transform="mirror then blur", pass_through="both")
    found = candidate_gates(both, (112, 160))
    assert found.pop("agreement, mirror then blur") == both
    assert {one.pass_through for one in found.values() if one.gate == "agreement"} == {"both"}
    assert {one.pass_through for one in found.values() if one.gate != "agreement"} == {"clean"}
    assert torch.tensor([len(one.transforms()) for one in found.values()]).max() == 1
