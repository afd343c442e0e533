"""Thresholds and what they cost, on made-up drifts."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from clipfast import CounterattackConfig, InputError
from clipfast.calibration.threshold import (
    Calibration,
    Measured,
    Right,
    calibrate,
    expected_passes,
    figures_beside,
    report_path,
    threshold_balanced,
    threshold_early,
    threshold_for_rate,
    write_calibration,
)
from clipfast.defence.passes import Passes

CONFIG = CounterattackConfig(pass_through="clean")
EARLY = CounterattackConfig(gate="agreement", gate_depth=2, early_threshold=0.9, pass_through="clean")


def drifts(n: int, centre: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.exp(rng.normal(np.log(centre), 0.4, n)).astype(np.float32)


def measured(n: int, centre: float, seed: int = 0) -> Measured:
    return Measured(drift=drifts(n, centre, seed))


def made(clean: Measured, attacked: Measured | None = None, **options) -> Calibration:
    options = {"config": CONFIG, "weights": "weights", "rate": 0.05, **options}
    return calibrate(clean, attacked, **options)


@pytest.mark.parametrize(
    ("n", "rate", "countered"),
    [
        (200, 0.05, 10),
        (20, 0.05, 1),
        (39, 0.05, 1),
        (40, 0.05, 2),
        (1000, 0.3, 300),
        (10, 0.999, 9),
        (7, 0.29, 2),
        (100, 0.29, 29),
        (10, 1 - 1e-13, 9),
    ],
)
def test_the_rate_is_kept_exactly(n, rate, countered):
    drift = drifts(n, 0.02)
    threshold = threshold_for_rate(drift, rate)
    assert (drift < np.float32(threshold)).sum() == countered
    assert threshold == np.float32(threshold)  # the engine compares float32


def test_the_threshold_lies_halfway_between_two_pictures():
    assert threshold_for_rate([0.1, 0.5, 0.2, 0.4], 0.5) == pytest.approx(0.3)
    one = np.float32(0.1)
    two = np.nextafter(one, np.float32(1))
    three = np.nextafter(two, np.float32(1))
    assert threshold_for_rate([one, two, three], 0.34) == two  # nothing lies between
    assert threshold_for_rate([one, two, three], 0.67) == three


@pytest.mark.parametrize(
    ("drift", "rate", "countered"),
    [
        ([1, 2, 2, 2, 3], 0.5, 1),
        ([2, 2, 2, 2, 3], 0.5, 0),
        ([1, 1, 2, 2, 3], 0.4, 2),
        ([5, 5, 5, 5], 0.75, 0),
    ],
)
def test_pictures_of_equal_drift_are_countered_all_or_none_and_never_too_many(drift, rate, countered):
    drift = np.array(drift, np.float32)
    assert (drift < threshold_for_rate(drift, rate)).sum() == countered


@pytest.mark.parametrize(("n", "rate", "least"), [(19, 0.05, 20), (1, 0.5, 2), (99, 0.01, 100), (6, 0.15, 7)])
def test_too_few_pictures_for_a_rate_are_named(n, rate, least):
    with pytest.raises(InputError, match=f"at least {least} clean pictures for a rate of {rate}, got {n}"):
        threshold_for_rate(drifts(n, 0.02), rate)
    assert threshold_for_rate(drifts(least, 0.02), rate) > 0


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_impossible_rates_are_named(rate):
    with pytest.raises(InputError, match="expected a rate between 0 and 1"):
        threshold_for_rate(drifts(100, 0.02), rate)


def test_balanced_accuracy_is_the_best_there_is():
    clean, attacked = drifts(80, 0.03), drifts(60, 0.02, seed=1)

    def balanced(threshold: float) -> float:
        return ((clean >= threshold).mean() + (attacked < threshold).mean()) / 2

    found = threshold_balanced(clean, attacked)
    tried = np.concatenate([clean, attacked])
    assert balanced(found) == max(balanced(t) for t in np.concatenate([tried, np.nextafter(tried, 1.0)]))
    assert found == np.float32(found)


def test_of_equal_thresholds_the_cheapest_is_taken():
    # Countering 0.1 alone, or 0.1 to 0.3, tells apart as many.
    found = threshold_balanced([0.2, 0.5, 0.6], [0.1, 0.3, 0.7])
    assert 0.1 < found <= 0.2


def test_the_config_is_calibrated_for_the_weights_and_the_settings_that_measured():
    found = made(measured(100, 0.02)).config
    assert found.is_calibrated("weights")
    assert not found.is_calibrated("others")
    assert dataclasses.replace(found, tau_threshold=CONFIG.tau_threshold, calibrated_for=None) == CONFIG
    assert not dataclasses.replace(found, tau_threshold=0.1).is_calibrated("weights")


@pytest.mark.parametrize("centre", [0.005, 0.02, 0.05])
def test_a_rate_is_kept_whatever_attacked_pictures_do(centre):
    clean, attacked = measured(200, 0.02), measured(150, centre, seed=1)
    found = made(clean, attacked)
    assert found.config == made(clean).config
    figures = found.figures()
    assert figures["clean_countered"] == 0.05
    countered = (attacked.drift < found.config.tau_threshold).mean()
    assert figures["attacked_countered"] == pytest.approx(countered)
    assert figures["balanced_accuracy"] == pytest.approx((0.95 + countered) / 2)
    assert figures["auroc_low"] <= figures["auroc"] <= figures["auroc_high"]
    words = {0.005: "the gate separates", 0.02: "does not separate", 0.05: "is inverted"}[centre]
    assert words in json.loads(found.to_json())["gate"]


@pytest.mark.parametrize(("centre", "named"), [(0.02, "does not separate"), (0.05, "is inverted")])
def test_no_balanced_threshold_is_fitted_to_chance(centre, named):
    with pytest.raises(InputError, match=rf"better than chance: the gate {named}.*AUROC 0\.\d"):
        made(measured(200, 0.02), measured(200, centre, seed=1), rate=None)


def test_balanced_where_the_gate_separates():
    clean, attacked = measured(200, 0.02), measured(200, 0.008, seed=1)
    found = made(clean, attacked, rate=None)
    assert found.config.tau_threshold == threshold_balanced(clean.drift, attacked.drift)
    assert found.figures()["balanced_accuracy"] > 0.8


@pytest.mark.parametrize(
    ("clean", "attacked", "options", "named"),
    [
        (100, None, {"rate": None}, "needs attacked pictures"),
        (100, None, {"attacked_share": 0.1}, "attacked share of 0.1 needs attacked pictures"),
        (100, 9, {}, "at least 10 attacked pictures, got 9"),
        (9, 100, {"rate": 0.5}, "at least 10 clean pictures, got 9"),
        (100, 100, {"attacked_share": 1.1}, r"attacked traffic in \[0, 1\], got 1.1"),
    ],
)
def test_what_cannot_be_calibrated_is_named(clean, attacked, options, named):
    with pytest.raises(InputError, match=named):
        made(measured(clean, 0.02), None if attacked is None else measured(attacked, 0.01), **options)


def test_answers_follow_the_gate():
    drift = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    right = Right(*np.array([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1]], bool))
    found = Measured(drift=drift, right=right)
    assert [found.accuracy(t) for t in (0.0, 0.2, 0.35, 1.0)] == [0.5, 0.25, 0.25, 0.5]
    both = Measured.joined([found, found])
    assert len(both) == 8
    assert both.accuracy(0.35) == 0.25
    assert Measured.joined([Measured(drift=drift)]).right is None


def with_answers(n: int, centre: float, seed: int) -> Measured:
    rng = np.random.default_rng(seed)
    flags = Right(*(rng.random((3, n)) < np.array([[0.9], [0.85], [0.6]])))
    return Measured(drift=drifts(n, centre, seed), right=flags)


def test_figures_and_curve_are_what_a_classifier_would_do():
    clean, attacked = with_answers(100, 0.02, 0), with_answers(80, 0.01, 1)
    found = made(clean, attacked, attacked_share=0.25, run={"attack_eps": 1 / 255, "seed": 4})
    figures, threshold = found.figures(), found.config.tau_threshold
    assert (figures["attack_eps"], figures["seed"]) == (1 / 255, 4)
    for name, pictures in (("clean", clean), ("attacked", attacked)):
        assert figures[f"{name}_pictures"] == len(pictures)
        assert figures[f"{name}_accuracy"] == pictures.accuracy(threshold)
        assert figures[f"{name}_accuracy_undefended"] == pictures.right.undefended.mean()
    paying = 0.75 * figures["clean_countered"] + 0.25 * figures["attacked_countered"]
    assert figures["paying_share"] == pytest.approx(paying)
    assert figures["forward_passes"] == pytest.approx(2 + 2 * paying)
    assert figures["backward_passes"] == pytest.approx(2 * paying)
    assert figures["clean_countered_low"] < 0.05 < figures["clean_countered_high"]
    curve = found.curve()
    assert len({len(column) for column in curve.values()}) == 1
    assert curve["clean_countered"] == sorted(curve["clean_countered"])
    for i in (0, 50, 100):
        threshold = curve["tau_threshold"][i]
        assert curve["clean_countered"][i] == (clean.drift < threshold).mean()
        assert curve["attacked_accuracy"][i] == attacked.accuracy(threshold)
        share = 0.75 * curve["clean_countered"][i] + 0.25 * curve["attacked_countered"][i]
        assert curve["forward_passes"][i] == pytest.approx(2 + 2 * share)


@pytest.mark.parametrize(
    ("config", "drift_encoder", "passed", "countered"),
    [
        ({}, False, (2, 0), (4, 2)),
        ({"steps": 3}, False, (2, 0), (5, 3)),
        ({}, True, (3, 0), (6, 2)),
        ({"gate": "agreement"}, False, (3, 0), (5, 2)),
        ({"gate": "agreement", "pass_through": "clean"}, False, (2, 0), (5, 2)),
        ({"steps": 0, "gate": "agreement", "pass_through": "clean"}, False, (2, 0), (3, 0)),
        ({"gate": "high_noise_drift", "views": ["mirror", "identity", "blur"]}, False, (3, 0), (7, 2)),
        ({"objective": "towards"}, False, (2, 0), (5, 2)),
        ({"gate": "agreement", "objective": "towards"}, False, (3, 0), (5, 2)),
    ],
)
def test_passes_are_those_of_the_schedule(config, drift_encoder, passed, countered):
    config = CounterattackConfig(**config)
    assert expected_passes(config, 0.0, drift_encoder=drift_encoder) == Passes(*passed)
    assert expected_passes(config, 1.0, drift_encoder=drift_encoder) == Passes(*countered)
    middle = expected_passes(config, 0.25, drift_encoder=drift_encoder)
    assert middle.forward == 0.75 * passed[0] + 0.25 * countered[0]
    assert middle.backward == 0.25 * countered[1]


@pytest.mark.parametrize(("early", "forward"), [(0, 2), (1, 1.25), (0.5, 1.625)])
def test_who_passes_early_pays_for_some_blocks(early, forward):
    config = dataclasses.replace(EARLY, pass_through="both")
    passes = expected_passes(config, 0.0, early=early, blocks=8)
    assert passes == Passes(forward, 0)
    assert expected_passes(config, 0.0, early=early) == Passes(2, 0)  # of an unknown number of blocks
    one = dataclasses.replace(EARLY, early_threshold=None)
    assert expected_passes(one, 0.0, blocks=8) == Passes(1.25, 0)


def agreeing(n: int, drift: float, tokens: float, seed: int) -> Measured:
    rng = np.random.default_rng(seed)
    return Measured(
        drift=rng.normal(drift, 0.05, n).astype(np.float32),
        tokens=rng.normal(tokens, 0.02, n).astype(np.float32),
    )


def test_hardly_any_that_should_be_countered_pass_early():
    clean, attacked = agreeing(400, 0.9, 0.95, 0), agreeing(300, 0.7, 0.9, 1)
    early = threshold_early(clean, attacked, 0.8)
    wrongly = [((m.drift < 0.8) & (m.tokens >= np.float32(early))).sum() for m in (clean, attacked)]
    assert early == np.float32(early)
    # At most a hundredth of either kind, and of one of them just that.
    assert wrongly[0] <= 4
    assert wrongly[1] <= 3
    assert wrongly[0] == 4 or wrongly[1] == 3
    assert not np.isclose(np.concatenate([clean.tokens, attacked.tokens]), early, rtol=0, atol=1e-7).any()
    assert threshold_early(clean, clean, 0.0) == 0.01
    steady = dataclasses.replace(attacked, tokens=np.ones(300, np.float32))
    assert threshold_early(clean, steady, 0.8) == 1.0


def test_both_thresholds_are_set_and_every_figure_is_of_both_gates():
    clean, attacked = agreeing(400, 0.9, 0.95, 0), agreeing(300, 0.7, 0.9, 1)
    found = made(clean, attacked, config=EARLY, blocks=8)
    tau, early = found.config.tau_threshold, found.config.early_threshold
    assert tau == threshold_for_rate(clean.drift, 0.05)
    assert early == threshold_early(clean, attacked, tau)
    passed = [m.tokens >= np.float32(early) for m in (clean, attacked)]
    countered = [(m.drift < tau) & ~p for m, p in zip((clean, attacked), passed, strict=True)]
    figures = found.figures()
    assert figures["early_threshold"] == early
    assert figures["clean_early"] == passed[0].mean()
    assert figures["attacked_early"] == passed[1].mean()
    assert figures["clean_countered"] == countered[0].mean()
    assert figures["attacked_countered"] == countered[1].mean()
    share = passed[0].mean()
    assert figures["forward_passes"] == pytest.approx(2 + 3 * countered[0].mean() - 0.75 * share)
    assert found.config.is_calibrated("weights")
    for changes in ({"early_threshold": 0.5}, {"gate_depth": 3}, {"gate_tokens": "mean"}):
        assert not dataclasses.replace(found.config, **changes).is_calibrated("weights")
    with pytest.raises(InputError, match="an early_threshold needs attacked pictures"):
        made(clean, config=EARLY)


def test_files_are_a_config_and_a_report_beside_it(tmp_path):
    found = made(measured(100, 0.02), measured(100, 0.01, seed=1), run={"clean": "photos"})
    path = tmp_path / "mine.json"
    assert write_calibration(found, path) == report_path(path) == tmp_path / "mine.calibration.json"
    assert CounterattackConfig.from_json(path.read_text()) == found.config
    report = json.loads(report_path(path).read_text())
    assert report["figures"] == found.figures()
    assert report["run"] == {"clean": "photos"}
    assert report["rule"] == "at most 5 % of clean pictures are countered"
    percentiles = report["drift_percentiles"]
    assert percentiles["clean"][50] == pytest.approx(np.median(found.clean.drift))
    assert len(percentiles["attacked"]) == 101
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.calibration.json", "mine.json"]
    assert figures_beside(path) == found.figures()


def test_figures_of_another_config_are_not_taken(tmp_path):
    found = made(measured(100, 0.02))
    path = tmp_path / "mine.json"
    write_calibration(found, path)
    path.write_text(dataclasses.replace(found.config, steps=3).to_json())
    assert figures_beside(path) is None
    report_path(path).unlink()
    assert figures_beside(path) is None
    report_path(path).write_text("{}")
    with pytest.raises(
        InputError, match=r"cannot read the report of a calibration in .*mine\.calibration\.json"
    ):
        figures_beside(path)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        write_calibration(made(measured(100, 0.02)), tmp_path / "gone" / "mine.json")
