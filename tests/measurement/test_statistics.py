"""Standard errors, intervals and paired differences, against closed forms and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clipfast import InputError
from clipfast.measurement.statistics import over_seeds, paired_difference, right_in_every_case, share, wilson


def test_a_share_has_the_binomial_standard_error():
    found = share([True, False, True, True])
    assert found.mean == 0.75
    assert found.standard_error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
    assert found.n == 4
    assert share(np.ones(7, bool)).standard_error == 0


def test_seeds_make_an_images_mean_surer_and_the_sample_no_larger():
    right = np.array([[1, 1, 0, 0], [1, 0, 0, 1]], bool)
    found = over_seeds(right)
    assert (found.mean, found.n) == (0.5, 4)
    assert found.standard_error == pytest.approx(np.std([1, 0.5, 0, 0.5]) / 2)
    repeated = over_seeds(np.stack([right[0]] * 9))
    assert repeated == share(right[0])


@pytest.mark.parametrize("right", [[], [[]], [[[True]]], [True]])
def test_what_is_no_set_of_rounds_is_named(right):
    with pytest.raises(InputError, match=r"expected flags \[S, N\], at least one"):
        over_seeds(right)


def test_wilsons_interval_is_that_of_the_textbook():
    # Solves |p - successes / n| = z sqrt(p (1 - p) / n) for p.
    for successes, n in ((0, 10), (3, 10), (10, 10), (38, 200)):
        for bound in wilson(successes, n):
            if 0 < bound < 1:
                z = abs(bound - successes / n) / math.sqrt(bound * (1 - bound) / n)
                assert z == pytest.approx(1.959964, abs=1e-4)
    assert wilson(0, 10).low == 0
    assert wilson(10, 10).high == 1
    assert wilson(0, 10).high == pytest.approx(0.2775, abs=1e-4)


@pytest.mark.parametrize(("successes", "n"), [(-1, 3), (4, 3), (0, 0)])
def test_a_share_of_nothing_is_named(successes, n):
    with pytest.raises(InputError, match=f"got {successes} of {n}"):
        wilson(successes, n)


def test_a_paired_difference_by_hand():
    first = np.array([1, 1, 1, 0, 0, 1, 0, 1], bool)
    second = np.array([1, 0, 0, 0, 1, 1, 0, 0], bool)
    only_first, only_second, n = 3, 1, 8
    found = paired_difference(first, second)
    assert found.mean == (only_first - only_second) / n
    closed = math.sqrt(only_first + only_second - (only_first - only_second) ** 2 / n) / n
    assert found.standard_error == pytest.approx(closed)
    assert found.interval.low <= found.mean <= found.interval.high
    swapped = paired_difference(second, first)
    assert swapped.mean == -found.mean
    assert swapped.standard_error == found.standard_error


def test_pairing_counts():
    rng = np.random.default_rng(0)
    first = rng.random(400) < 0.5
    second = first.copy()
    second[:8] = True
    paired = paired_difference(second, first)
    unpaired = paired_difference(second, rng.permutation(first))
    assert unpaired.standard_error > 4 * paired.standard_error


def test_the_bootstrap_is_of_images_seeded_and_covers_as_a_normal_would():
    rng = np.random.default_rng(1)
    first, second = rng.random(1000) < 0.6, rng.random(1000) < 0.5
    found = paired_difference(first, second, seed=3)
    assert found == paired_difference(first, second, seed=3)
    assert found != paired_difference(first, second, seed=4)
    for bound, sign in zip(found.interval, (-1, 1), strict=True):
        assert bound == pytest.approx(found.mean + sign * 1.96 * found.standard_error, abs=0.003)
    # The same images drawn one by one.
    differences = first.astype(float) - second
    drawn = differences[np.random.default_rng(5).integers(1000, size=(4000, 1000))].mean(axis=1)
    assert found.interval == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.004)


def test_means_over_seeds_can_be_compared_too():
    found = paired_difference([0.5, 1.0, 0.0], [0.0, 1.0, 0.5])
    assert found.mean == 0
    assert found.standard_error == pytest.approx(np.std([0.5, 0, -0.5]) / math.sqrt(3))


def test_equal_systems_differ_by_nothing():
    right = np.array([True, False, True])
    assert paired_difference(right, right) == (0.0, 0.0, (0.0, 0.0))


@pytest.mark.parametrize(("first", "second"), [([1, 0], [1]), ([], []), ([[1]], [[1]])])
def test_what_is_not_paired_is_named(first, second):
    with pytest.raises(InputError, match=r"two arrays \[N\] of the same images"):
        paired_difference(first, second)


def test_the_worst_case_is_right_everywhere():
    cases = np.array([[1, 1, 0, 1], [1, 0, 1, 1], [0, 1, 1, 1]], bool)
    assert right_in_every_case(*cases).tolist() == [False, False, False, True]
