"""ROC and AUROC of a low measure, against brute force and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from clipfast import InputError
from clipfast.calibration.separation import countered_share, roc, separation


@pytest.fixture
def drifts():
    """With ties, within and between."""
    rng = np.random.default_rng(0)
    clean = (rng.integers(3, 12, 60) / 100).astype(np.float32)
    attacked = (rng.integers(1, 9, 40) / 100).astype(np.float32)
    return clean, attacked


def scores(clean, attacked):
    return np.repeat([0, 1], [len(clean), len(attacked)]), -np.concatenate([clean, attacked])


def test_the_area_is_a_count_of_pairs(drifts):
    clean, attacked = drifts
    pairs = [1.0 if a < c else 0.5 if a == c else 0.0 for a in attacked for c in clean]
    found = separation(clean, attacked).auroc
    assert found == pytest.approx(np.mean(pairs), abs=1e-12)
    assert found == pytest.approx(roc_auc_score(*scores(clean, attacked)), abs=1e-12)
    assert separation(attacked, clean).auroc == pytest.approx(1 - found, abs=1e-12)


def test_the_roc_is_scikit_learns(drifts):
    clean, attacked = drifts
    false_alarms, hits, _ = roc_curve(*scores(clean, attacked), drop_intermediate=False)
    found = roc(clean, attacked)
    np.testing.assert_allclose(found[0], false_alarms)
    np.testing.assert_allclose(found[1], hits)
    assert np.trapezoid(found[1], found[0]) == pytest.approx(separation(clean, attacked).auroc)


def test_the_gate_is_strict():
    drift = [0.1, 0.2, 0.2, 0.3]
    assert countered_share(drift, [0.0, 0.1, 0.2, 0.25, 1.0]).tolist() == [0, 0, 0.25, 0.75, 1]
    assert countered_share(drift, 0.3) == 0.75


@pytest.mark.parametrize(
    ("shift", "kind", "words"),
    [
        (-1.0, "separates", "attacked pictures measure lower than clean ones"),
        (0.0, "does not separate", "the gate does not separate"),
        (1.0, "is inverted", "attacked pictures measure higher than clean ones"),
    ],
)
def test_what_the_gate_does_is_said(shift, kind, words):
    rng = np.random.default_rng(2)
    found = separation(rng.normal(5, 1, 300), rng.normal(5 + shift, 1, 300))
    assert found.kind == kind
    assert words in str(found)
    assert f"AUROC {found.auroc:.3f}" in str(found)
    assert found.interval.low < found.auroc < found.interval.high


def test_equal_drifts_do_not_separate():
    drift = np.linspace(0.01, 0.1, 50)
    assert separation(drift, drift).auroc == 0.5
    assert separation(drift, drift).kind == "does not separate"
    assert separation(np.full(20, 0.1), np.full(30, 0.1)).kind == "does not separate"


def test_the_interval_is_as_wide_as_theory_says():
    rng = np.random.default_rng(3)
    clean, attacked = rng.normal(0, 1, 400), rng.normal(-0.5, 1, 300)
    found = separation(clean, attacked, seed=1)
    # DeLong et al. (Biometrics, 1988): the variances of each side's own shares.
    below = np.array([(a < clean).mean() for a in attacked])
    above = np.array([(attacked < c).mean() for c in clean])
    error = np.sqrt(below.var() / len(attacked) + above.var() / len(clean))
    assert found.interval.high - found.interval.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert found == separation(clean, attacked, seed=1)
    assert found.interval != separation(clean, attacked, seed=2).interval


@pytest.mark.parametrize("clean", [[], [0.1, np.nan], [[0.1]]])
def test_what_are_no_drifts_is_named(clean):
    with pytest.raises(InputError, match=r"expected finite drifts \[N\]"):
        separation(clean, [0.1])
    with pytest.raises(InputError, match=r"expected finite drifts \[N\]"):
        separation([0.1], clean)
