from __future__ import annotations

import dataclasses

import pytest
import torch
from conftest import make_classifier, pixels

from clipfast import CounterattackConfig
from clipfast.attacks import make
from clipfast.evaluation.defences import systems

EPS = 4 / 255


@pytest.fixture
def held(tiny_clip, tokenizer):
    """A classifier whose gate holds back nine pictures in ten, and the pictures."""
    x = pixels(32).float() / 255
    drift = make_classifier(tiny_clip, tokenizer).predict(x, seed=0).drift
    config = CounterattackConfig(tau_threshold=drift.quantile(0.9).item())
    return make_classifier(tiny_clip, tokenizer, config=config), x


def passed(classifier, x) -> float:
    shares = [(~classifier.predict(x, seed=100 + s).countered).double().mean() for s in range(8)]
    return torch.stack(shares).mean().item()


def test_lets_more_pictures_pass_than_an_attack_that_ignores_the_gate(held):
    classifier, x = held
    system, labels = systems.countered(classifier), classifier.undefended(x).argmax(dim=1)
    assert passed(classifier, x) < 0.2
    shares, right = {}, {}
    for name in ("bpda", "gate"):
        attacked = make(name, stops=False).run(system, x, labels, eps=EPS, seed=0).pixels
        shares[name] = passed(classifier, attacked)
        right[name] = (classifier.predict(attacked, seed=9).labels == labels).double().mean()
    assert shares["gate"] > shares["bpda"] + 0.25
    assert right["gate"] < 0.1


def test_pushes_only_pictures_that_are_held_back(held):
    classifier, x = held
    system, labels = systems.countered(classifier), classifier.undefended(x).argmax(dim=1)
    always = dataclasses.replace(system, tau_threshold=1e9)
    never = dataclasses.replace(system, tau_threshold=0.0)
    plain = make("bpda", steps=1, stops=False).run(system, x, labels, eps=EPS, seed=0).pixels
    moved = [
        make("gate", steps=1, stops=False).run(s, x, labels, eps=EPS, seed=0).pixels for s in (never, always)
    ]
    assert torch.equal(moved[0], plain)
    different = (moved[1] != plain).flatten(1).double().mean(dim=1)
    assert (different > 0.02).all()
    assert (different < 0.9).all()  # the loss has its say


def test_passes_the_threshold_by_its_slack(held):
    """Just over the threshold, the noise of the next draw may fall short of it."""
    classifier, x = held
    system, labels = systems.countered(classifier), classifier.undefended(x).argmax(dim=1)
    shares = []
    for slack in (0.0, 0.5):
        attacked = make("gate", stops=False, slack=slack).run(system, x, labels, eps=EPS, seed=0).pixels
        shares.append(passed(classifier, attacked))
    assert shares[1] > shares[0]
