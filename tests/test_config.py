import dataclasses
import json
import math

import pytest

from clipfast import CounterattackConfig, InputError


def test_defaults_are_the_published_settings():
    config = CounterattackConfig.published()
    assert config == CounterattackConfig()
    assert (config.eps, config.step_size, config.steps) == (4 / 255, 1 / 255, 2)
    assert (config.beta, config.tau_threshold, config.norm, config.pass_through) == (
        2.0,
        0.2,
        "linf",
        "noise",
    )
    assert (config.momentum, config.gate) == (0.0, "drift")


def test_serving_differs_in_pass_through_only():
    serving = CounterattackConfig.serving()
    assert serving.pass_through == "clean"
    assert dataclasses.replace(serving, pass_through="noise") == CounterattackConfig.published()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"eps": 0}, "eps must be positive"),
        ({"eps": 4}, "4/255"),
        ({"eps": math.nan}, "eps must be finite"),
        ({"eps": "4/255"}, "eps must be a number"),
        ({"step_size": -1 / 255}, "step_size must be positive"),
        ({"step_size": 1.5}, "at most 1"),
        ({"steps": 0}, "steps must be an integer of at least 1"),
        ({"steps": 2.0}, "steps must be an integer"),
        ({"steps": True}, "steps must be an integer"),
        ({"beta": math.inf}, "beta must be finite"),
        ({"tau_threshold": -0.1}, "tau_threshold must not be negative"),
        ({"tau_threshold": math.nan}, "tau_threshold must be finite"),
        ({"norm": "l1"}, "norm must be one of"),
        ({"pass_through": "none"}, "pass_through must be one of"),
        ({"calibrated_for": 3}, "calibrated_for must be"),
        ({"momentum": 1}, "momentum must be at least 0 and below 1, got 1.0"),
        ({"momentum": -0.1}, "momentum must be at least 0 and below 1"),
        ({"momentum": math.nan}, "momentum must be finite"),
        ({"gate": "high_pass"}, "gate must be one of .*'low_pass'.*, got 'high_pass'"),
        ({"gate": None}, "gate must be one of"),
        ({"radius": 0}, "radius must be positive, got 0.0"),
        ({"radius": "40"}, "radius must be a number"),
    ],
)
def test_impossible_settings_are_named(values, named):
    with pytest.raises(InputError, match=named):
        CounterattackConfig(**values)


def test_l2_budget_may_exceed_one():
    assert CounterattackConfig(norm="l2", eps=2.0, step_size=1.5).eps == 2.0


def test_frozen_and_keyword_only():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CounterattackConfig().eps = 1.0
    with pytest.raises(TypeError):
        CounterattackConfig(4 / 255)


def test_json_round_trip_is_exact():
    config = CounterattackConfig(
        eps=3 / 255, steps=7, norm="l2", pass_through="clean", tau_threshold=0.1, calibrated_for="ab"
    )
    assert CounterattackConfig.from_json(config.to_json()) == config
    config = CounterattackConfig(momentum=0.9, gate="low_pass", radius=12, tau_threshold=0.85)
    assert CounterattackConfig.from_json(config.to_json()) == config


def test_settings_that_a_file_lacks_are_defaults():
    values = json.loads(CounterattackConfig(tau_threshold=0.1).calibrated("weights").to_json())
    older = json.dumps({name: values[name] for name in values.keys() - {"momentum", "gate", "radius"}})
    config = CounterattackConfig.from_json(older)
    assert config == CounterattackConfig(tau_threshold=0.1).calibrated("weights")
    assert config.is_calibrated("weights")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "as JSON"),
        ("[]", "JSON object"),
        (json.dumps({"epsilon": 0.1}), "unknown settings .'epsilon'"),
        (json.dumps({"eps": None}), "eps must be a number"),
    ],
)
def test_foreign_json_is_named(text, named):
    with pytest.raises(InputError, match=named):
        CounterattackConfig.from_json(text)


def test_calibration_belongs_to_weights_threshold_eps_and_norm():
    config = CounterattackConfig(tau_threshold=0.1).calibrated("weights")
    assert config.is_calibrated("weights")
    assert not config.is_calibrated("other weights")
    assert dataclasses.replace(config, steps=5, pass_through="clean").is_calibrated("weights")
    for change in ({"tau_threshold": 0.11}, {"eps": 8 / 255}, {"norm": "l2"}):
        assert not dataclasses.replace(config, **change).is_calibrated("weights")
    assert not CounterattackConfig().is_calibrated("weights")


def test_the_mark_of_the_drift_gate_is_that_of_older_files():
    mark = "f9f55b57b3ae9ddedf510ecf164698cd7c5eabc221b0f6733ec0cfbb30f8dd6c"
    assert CounterattackConfig(tau_threshold=0.1).calibrated("weights").calibrated_for == mark


def test_calibration_belongs_to_the_gate():
    drift = CounterattackConfig(tau_threshold=0.5).calibrated("weights")
    low_pass = CounterattackConfig(tau_threshold=0.5, gate="low_pass").calibrated("weights")
    assert low_pass.is_calibrated("weights")
    assert not low_pass.is_calibrated("other weights")
    assert not dataclasses.replace(drift, gate="low_pass").is_calibrated("weights")
    assert not dataclasses.replace(low_pass, gate="drift").is_calibrated("weights")
    for change in ({"tau_threshold": 0.51}, {"radius": 39}):
        assert not dataclasses.replace(low_pass, **change).is_calibrated("weights")
    for change in ({"eps": 8 / 255}, {"norm": "l2"}, {"momentum": 0.9}):  # it draws no noise
        assert dataclasses.replace(low_pass, **change).is_calibrated("weights")
    assert dataclasses.replace(drift, momentum=0.9, radius=39).is_calibrated("weights")
