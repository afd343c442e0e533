"""Which attacks a budget runs, and when a figure is an upper bound."""

from __future__ import annotations

import pytest

from clipfast import InputError
from clipfast.attacks import ADAPTIVE, ATTACKS, TRANSFER
from clipfast.attacks.levels import level, parse_level
from clipfast.evaluation.budgets import BUDGETS, budget_of
from clipfast.evaluation.planned_attacks import planned

EPS = 1 / 255


def names(budget: str, attacks: list[str] | None = None, classes: int = 10) -> list[str]:
    return [p.attack.name for p in planned(budget_of(budget), attacks, EPS, classes=classes)]


def test_full_runs_all_and_quick_what_is_not_on_request():
    assert set(names("full")) == set(ATTACKS)
    assert set(ATTACKS) - set(names("quick")) == {"targeted", "apgd-eot", "black-box"}
    assert "targeted" in names("quick", ["pgd-10", "targeted"])


@pytest.mark.parametrize("budget", BUDGETS)
def test_transfer_attacks_come_first_in_the_registrys_order(budget):
    plan = [p for p in planned(budget_of(budget), None, EPS, classes=10) if p.column.labels == "true"]
    assert [p.attack.name for p in plan] == [n for n in (*TRANSFER, *ADAPTIVE) if n in names(budget)]
    assert [p.column.kind for p in plan] == [ATTACKS[p.attack.name].kind for p in plan]
    assert [p.column.title for p in plan] == [ATTACKS[p.attack.name].title for p in plan]


def test_full_is_as_strong_as_it_says():
    settings = {p.column.key: p.attack for p in planned(budget_of("full"), None, EPS, classes=10)}
    bpda = settings["bpda@1/255"]
    assert (bpda.steps, bpda.samples, bpda.restarts) == (100, 10, 5)
    assert BUDGETS["full"].images == 1000


def test_predicted_labels_are_columns_of_their_own():
    plan = planned(budget_of("quick"), ["pgd-10", "cw"], EPS, classes=10)
    assert [(p.column.key, p.column.labels) for p in plan] == [
        ("pgd-10@1/255", "true"),
        ("cw@1/255", "true"),
        ("pgd-10, predicted labels@1/255", "predicted"),
    ]


@pytest.mark.parametrize(
    ("budget", "attacks", "bound"),
    [("quick", None, True), ("full", None, False), ("full", ["pgd-10", "bpda"], True)],
)
def test_adaptive_figures_are_upper_bounds_unless_all_of_a_full_budget_ran(budget, attacks, bound):
    columns = [p.column for p in planned(budget_of(budget), attacks, EPS, classes=10)]
    assert {c.upper_bound for c in columns if c.kind == "adaptive"} == {bound}
    assert not any(c.upper_bound for c in columns if c.kind == "transfer")


def test_the_dlr_loss_is_left_out_of_two_classes_and_refused_by_name():
    assert set(names("quick")) - set(names("quick", classes=2)) == {"apgd-dlr"}
    with pytest.raises(InputError, match="apgd-dlr needs at least 3 classes, got 2"):
        names("quick", ["apgd-dlr"], classes=2)


@pytest.mark.parametrize(("text", "eps"), [("1/255", 1 / 255), ("0.5/255", 0.5 / 255), ("0.25", 0.25)])
def test_levels_are_read(text, eps):
    assert parse_level(text) == eps


def test_levels_are_named_in_grey_levels():
    assert level(0.5 / 255) == "0.5/255"


@pytest.mark.parametrize("text", ["", "1/", "/255", "1/0", "0", "2", "-1/255", "nan", "one"])
def test_bad_levels_are_refused(text):
    with pytest.raises(InputError, match="expected a budget as 1/255, above 0 and at most 1"):
        parse_level(text)
