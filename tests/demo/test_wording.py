"""The demo's sentences: each figure where it belongs."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from clipfast import CounterattackConfig
from clipfast.attacks import ATTACKS
from clipfast.demo.adaptive import ADAPTIVE_ATTACKS
from clipfast.demo.experiment import DemoResult, SystemRow
from clipfast.demo.subject import Described
from clipfast.demo.wording import COLUMNS, demo_caption, demo_verdict, table_rows

DESCRIBED = Described(
    title="a model",
    lead="It names pictures.",
    pictures="100 freshly drawn pictures",
    limits="It shows the mechanism and is no evidence about real CLIP.",
)


def made_up() -> DemoResult:
    def answers(countered: int):
        return SimpleNamespace(countered=torch.arange(100) < countered)

    rows = {
        "undefended": SystemRow(0.99, 0.28, 0.08, 1.0, 1.0),
        "3x3 blur": SystemRow(0.98, 0.50, 0.40, 1.1, 1.2),
        "fine-tuned twin": SystemRow(0.97, 0.78, 0.59, 1.0, 1.0),
        "TTC as published": SystemRow(0.86, 0.37, 0.15, 5.4, 4.2),
        "recommended": SystemRow(0.96, 0.95, 0.44, 3.1, 12.2),
    }
    defences = {
        preset: SimpleNamespace(
            config=CounterattackConfig.of(preset), clean=answers(63), attacked=answers(38)
        )
        for preset in ("published", "recommended")
    }
    pixels = torch.zeros(100, 3, 2, 2, dtype=torch.uint8)
    return DemoResult(DESCRIBED, rows, torch.zeros(100, dtype=torch.int64), pixels, pixels, defences)


def test_each_line_has_its_figures():
    attack, recommended, published, adaptive, limits = demo_verdict(made_up())
    assert attack.startswith("1. 10 steps")
    assert "more than 2 grey levels take the undefended model from 99% to 28%" in attack
    assert "recommended defence gets 95% of the attacked pictures right, and 96% of the clean" in recommended
    assert recommended.endswith("It has no gate, and answers every picture in one way.")
    assert "TTC as published gets 37% of the attacked pictures right, and 86% of the clean" in published
    assert "countered 38% of the attacked and 63% of the clean" in published
    assert "leave 44% to the recommended one and 15% to the published one" in adaptive
    assert "59% to a twin" in adaptive
    assert "8% without a defence" in adaptive
    assert "upper bounds" in adaptive
    assert limits.endswith("no evidence about real CLIP.")


def test_a_row_a_system():
    rows = table_rows(made_up())
    assert rows[-1] == ("recommended", "96 %", "95 %", "44 %", "3.1x", "12.2x")
    assert len(rows) == 5
    assert {len(row) for row in rows} == {len(COLUMNS)}


def test_the_caption_names_attackers_and_their_strength():
    said = demo_caption(made_up())
    assert "on 100 freshly drawn pictures; standard error up to 5 points." in said
    assert "l-inf 2/255, 10 steps" in said
    for words in (
        "attacked through its answer, and one with a gate also past its gate, on the countered side of its "
        "gate and through both branches of its gate.",
        "hold a counterattack constant (BPDA), and average over 4 samples a step where noise is drawn.",
        "10 steps are few: adaptive figures are upper bounds.",
    ):
        assert words in said
    assert {ATTACKS[name].kind for name in ADAPTIVE_ATTACKS} == {"adaptive"}
