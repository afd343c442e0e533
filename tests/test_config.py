import dataclasses
import json
import math

import pytest

from clipfast import CounterattackConfig, InputError
from clipfast.defence.passes import engine_passes


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


def test_presets_by_their_names():
    published, recommended = (CounterattackConfig.of(name) for name in ("published", "recommended"))
    assert published == CounterattackConfig.published()
    assert recommended == CounterattackConfig.recommended()
    assert (published.is_ttc(), recommended.is_ttc()) == (True, False)
    # Two views of every picture, and nothing is drawn, measured or added.
    assert engine_passes(recommended, images=1, countered=0) == (2, 0)
    assert recommended.is_fixed
    assert not recommended.is_randomised()
    with pytest.raises(InputError, match="expected a preset of published, recommended, got 'best'"):
        CounterattackConfig.of("best")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("settings", "randomised"),
    [
        ({}, True),
        ({"gate": "agreement", "steps": 0}, True),  # by the noise of images that pass
        ({"gate": "agreement", "pass_through": "clean"}, True),  # by where the steps start
        ({"gate": "high_noise_drift", "steps": 0, "pass_through": "clean"}, True),
        ({"gate": "agreement", "steps": 0, "pass_through": "clean"}, False),
    ],
)
def test_what_draws_noise_is_randomised(settings, randomised):
    assert CounterattackConfig(**settings).is_randomised() == randomised


def test_under_a_threshold_that_none_reaches_all_are_countered_and_nothing_is_calibrated():
    config = CounterattackConfig(gate="agreement", tau_threshold=0.9).calibrated("weights")
    ungated = config.ungated()
    assert ungated.tau_threshold > 1e6
    assert not ungated.is_calibrated("weights")
    assert dataclasses.replace(ungated, tau_threshold=0.9) == dataclasses.replace(config, calibrated_for=None)


@pytest.mark.parametrize(
    ("settings", "fixed"),
    [
        ({"gate": "none", "tau_threshold": 0, "pass_through": "clean"}, True),
        ({"gate": "none", "tau_threshold": 0, "pass_through": "views", "views": ["blur"]}, True),
        ({"gate": "none", "tau_threshold": 0}, False),  # noise is added
        ({"gate": "none", "tau_threshold": 1, "pass_through": "clean"}, False),  # all are countered
        ({"gate": "agreement", "tau_threshold": 0, "pass_through": "clean"}, False),
    ],
)
def test_without_a_gate_nothing_needs_calibration(settings, fixed):
    config = CounterattackConfig(**settings)
    assert config.is_fixed == fixed
    assert config.is_calibrated("weights") == (config.gate == "none")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"eps": 0}, "eps must be positive"),
        ({"eps": 4}, "4/255"),
        ({"eps": math.nan}, "eps must be finite"),
        ({"eps": "4/255"}, "eps must be a number"),
        ({"step_size": -1 / 255}, "step_size must be positive"),
        ({"step_size": 1.5}, "at most 1"),
        ({"steps": -1}, "steps must be an integer from 0 to 1000, got -1"),
        ({"steps": 10**36}, "steps must be an integer from 0 to 1000, got 1000"),
        ({"beta": -800.0}, "beta times steps must be from -80 to 80"),
        ({"eps": 10**400}, "eps must be finite in float32"),
        ({"tau_threshold": 1e39}, "tau_threshold must be finite in float32"),
        ({"views": ("mirror",) * 65}, "at most 64 views, got 65"),
        ({"views": (" then ".join(["mirror"] * 9),)}, "at most 8 transforms in a row, got 9"),
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
        ({"gate": "high_pass"}, "gate must be one of .*'agreement'.*, got 'high_pass'"),
        ({"gate": None}, "gate must be one of"),
        ({"gate_noise": 0}, "gate_noise must be positive, got 0.0"),
        ({"gate_noise": 16}, "gate_noise is in .* did you mean 16/255"),
        ({"transform": "low_pass 0"}, "expected low_pass with a positive radius .*, got 'low_pass 0'"),
        ({"transform": 40}, "expected a transform as a string, got 40"),
        (
            {"gate": "agreement", "transform": "identity"},
            "a transform that changes the picture with gate 'agr",
        ),
        (
            {"objective": "towards", "transform": "identity"},
            "changes the picture with .* objective 'towards'",
        ),
        ({"objective": "up"}, "objective must be one of .*'away', 'towards'.*, got 'up'"),
        ({"objective": "towards", "steps": 0}, "expected objective 'away' with steps=0, got 'towards'"),
        ({"views": "mirror"}, "views must be a sequence of transforms, got 'mirror'"),
        ({"views": ["mirror", "turn"]}, "expected a transform of identity, .*, got 'turn'"),
        ({"pass_through": "both"}, "expected gate 'agreement' with pass_through 'both', got 'drift'"),
        (
            {"pass_through": "views", "views": ["blur"]},
            "expected gate 'none' and views .*, got 'drift' and .'blur'",
        ),
        (
            {"pass_through": "views", "gate": "none"},
            r"expected gate 'none' and views .*, got 'none' and \(\)",
        ),
        ({"view_weights": "best"}, "view_weights must be one of"),
        ({"gate_tokens": "last"}, "gate_tokens must be one of .*'class', 'mean'.*, got 'last'"),
        ({"gate_depth": 2}, "expected gate 'agreement' with a gate_depth, got 'drift'"),
        ({"gate": "agreement", "gate_depth": 0}, "gate_depth must be an integer from 1 to 1000, got 0"),
        ({"gate": "agreement", "gate_depth": 2.0}, "gate_depth must be an integer"),
        ({"gate": "agreement", "early_threshold": 0.9}, "expected a gate_depth with early_threshold 0.9"),
        (
            {"gate": "agreement", "gate_depth": 2, "early_threshold": 0.0},
            "early_threshold must be a number from 0.01 to 1, got 0.0",
        ),
        (
            {"gate": "agreement", "gate_depth": 2, "pass_through": "both"},
            "with pass_through 'both', got 'agreement' after block 2: it compares no two embeddings",
        ),
        (
            {"view_weights": "agreement", "views": ["identity", "mirror"]},
            "expected at least 3 views .*, got 2",
        ),
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
    config = CounterattackConfig(momentum=0.9, gate="agreement", transform="low_pass 12", tau_threshold=0.85)
    assert CounterattackConfig.from_json(config.to_json()) == config


def test_a_sequence_of_views_is_kept_as_it_is_read_again():
    config = CounterattackConfig(steps=0, views=["identity", "crop .9 centre"], transform="gaussian 1")
    assert config.views == ("identity", "crop 0.9 centre")
    assert CounterattackConfig.from_json(config.to_json()) == config
    assert hash(CounterattackConfig.from_json(config.to_json())) == hash(config)


def test_the_transforms_of_a_config_are_those_that_it_makes():
    assert CounterattackConfig().transforms() == ()
    config = CounterattackConfig(gate="agreement", views=["blur", "identity", "mirror"])
    assert config.transforms() == ("blur", "identity", "mirror")
    assert CounterattackConfig(objective="towards", transform="mirror").transforms() == ("mirror",)


def test_csr_s_gate_is_read_as_older_versions_wrote_it():
    values = json.loads(CounterattackConfig(gate="agreement", transform="low_pass 12").to_json())
    for name in ("gate_noise", "transform", "objective", "views", "view_weights"):
        del values[name]
    older = {**values, "gate": "low_pass", "radius": 12.0}
    mark = "a2257e3836da77bd14784e48dc975303c71ae789a497c835604487f8b29b065c"
    assert CounterattackConfig.from_json(json.dumps(older)) == CounterattackConfig(
        gate="agreement", transform="low_pass 12"
    )
    assert CounterattackConfig.from_json(json.dumps({**older, "gate": "drift"})) == CounterattackConfig()
    assert CounterattackConfig.from_settings(older).calibrated("weights").calibrated_for == mark


def test_settings_that_a_file_lacks_are_defaults():
    values = json.loads(CounterattackConfig(tau_threshold=0.1).calibrated("weights").to_json())
    older = json.dumps(
        {name: values[name] for name in values.keys() - {"momentum", "gate", "transform", "views"}}
    )
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
    agreement = CounterattackConfig(tau_threshold=0.5, gate="agreement").calibrated("weights")
    assert agreement.is_calibrated("weights")
    assert not agreement.is_calibrated("other weights")
    assert not dataclasses.replace(drift, gate="agreement").is_calibrated("weights")
    assert not dataclasses.replace(drift, gate="high_noise_drift", gate_noise=drift.eps).is_calibrated(
        "weights"
    )
    assert not dataclasses.replace(agreement, gate="drift").is_calibrated("weights")
    for change in ({"tau_threshold": 0.51}, {"transform": "mirror"}):
        assert not dataclasses.replace(agreement, **change).is_calibrated("weights")
    for change in ({"eps": 8 / 255}, {"norm": "l2"}, {"momentum": 0.9}, {"views": ["mirror"]}):
        assert dataclasses.replace(agreement, **change).is_calibrated("weights")  # it draws no noise
    assert dataclasses.replace(drift, momentum=0.9, transform="mirror").is_calibrated("weights")
    high = CounterattackConfig(tau_threshold=0.5, gate="high_noise_drift").calibrated("weights")
    assert dataclasses.replace(high, eps=8 / 255).is_calibrated("weights")
    assert not dataclasses.replace(high, gate_noise=8 / 255).is_calibrated("weights")
