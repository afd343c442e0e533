from __future__ import annotations

import dataclasses

import pytest
import torch
from conftest import make_classifier, pixels
from lab import VIEWS_ALONE
from toys import plain as toy_system
from toys import toy_batch

from clipfast import CounterattackConfig
from clipfast.attacks import ADAPTIVE, make
from clipfast.attacks.pass_counter import PassCounter
from clipfast.attacks.system import Branches, undefended
from clipfast.evaluation.defences import systems
from clipfast.reference_stages import answer_embedding

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


def stages(tiny_clip, tokenizer, x, held=0.5, **settings):
    """A system behind an agreement gate that holds back a share of pictures, its classifier and labels."""
    config = CounterattackConfig(gate="agreement", pass_through="clean", **settings)
    drift = make_classifier(tiny_clip, tokenizer, config=config).predict(x, seed=0).drift
    config = dataclasses.replace(
        config, tau_threshold=settings.get("tau_threshold", drift.quantile(held).item())
    )
    classifier = make_classifier(tiny_clip, tokenizer, config=config)
    return systems.countered(classifier), classifier, classifier.undefended(x).argmax(dim=1)


def test_past_an_open_door_it_is_pgd_on_plain_clip(tiny_clip, tokenizer):
    """Control: with nothing to evade, and branches that are one, new attacks make the old one's pictures."""
    x = pixels(12).float() / 255
    closed, classifier, labels = stages(tiny_clip, tokenizer, x, tau_threshold=0.0)
    one_way, _, _ = stages(tiny_clip, tokenizer, x, steps=0)
    open_, _, _ = stages(tiny_clip, tokenizer, x, steps=0, tau_threshold=1e9)
    options = {"eps": EPS, "seed": 3}
    plain = make("bpda", stops=False).run(undefended(classifier), x, labels, **options).pixels
    for name, system in (("gate-passed", closed), ("gate-countered", open_), ("both-branches", one_way)):
        attacked = make(name, stops=False).run(system, x, labels, **options).pixels
        assert torch.equal(attacked, plain), name


def test_gradients_through_one_view_are_those_through_none(tiny_clip, tokenizer):
    """Control: an open gate and the picture itself as the one view."""
    x = pixels(12).float() / 255
    made = []
    for views in ((), ("identity",)):
        system, _, labels = stages(tiny_clip, tokenizer, x, views=views, tau_threshold=2.0)
        made.append(make("bpda", stops=False, steps=3).run(system, x, labels, eps=EPS, seed=3).pixels)
    assert ((made[0] - made[1]).abs() > 1e-6).double().mean() < 0.01


def test_what_has_no_gate_is_attacked_through_its_exact_gradient_alone(tiny_clip, tokenizer):
    x, config = pixels(6).float() / 255, CounterattackConfig(**VIEWS_ALONE)
    classifier = make_classifier(tiny_clip, tokenizer, config=config)
    system, labels = systems.countered(classifier), classifier.undefended(x).argmax(dim=1)
    applying = [name for name in ADAPTIVE if make(name).applies(system)]
    assert applying == ["bpda", "targeted", "apgd-eot", "black-box"]
    assert system.answer(x, seed=0)[1:] == (None, None)
    leaf = x.clone().requires_grad_()
    with PassCounter(classifier) as spent:
        logits = system.attackable(leaf)
        (ours,) = torch.autograd.grad(logits.square().sum(), leaf)
    assert (spent.forward, spent.backward) == (6 * 2, 6 * 2)
    torch.testing.assert_close(logits, system.logits(x), rtol=0, atol=1e-3)
    head = classifier.differentiable("undefended").head
    expected = head(answer_embedding(classifier.image_tower, leaf, config))
    (theirs,) = torch.autograd.grad(expected.square().sum(), leaf)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())
    attacked = make("bpda", stops=False).run(system, x, labels, eps=EPS, seed=0).pixels
    assert (system.logits(attacked).argmax(dim=1) != labels).double().mean() > 0.3


def test_both_branches_turn_pictures_both_ways_through_the_gate(tiny_clip, tokenizer):
    x = pixels(24).float() / 255
    system, _, labels = stages(tiny_clip, tokenizer, x, views=("mirror", "crop 0.8 centre"))
    wrong = {}
    for name in ("bpda", "gate-passed", "both-branches"):
        attacked = make(name, stops=False).run(system, x, labels, eps=EPS, seed=0).pixels
        with torch.no_grad():
            ways = [logits(attacked).argmax(dim=1) != labels for logits in system.branches[:2]]
        wrong[name] = (ways[0] & ways[1]).double().mean()
    assert wrong["both-branches"] > max(wrong["bpda"], wrong["gate-passed"]) + 0.1


@pytest.mark.parametrize(("name", "countered"), [("gate-passed", False), ("gate-countered", True)])
def test_who_wants_one_way_gets_more_wrong_answers_there(tiny_clip, tokenizer, name, countered):
    x = pixels(24).float() / 255
    system, classifier, labels = stages(tiny_clip, tokenizer, x, steps=0, views=("mirror", "crop 0.8 centre"))
    shares = []
    for attack in ("bpda", name):
        attacked = make(attack).run(system, x, labels, eps=EPS / 8, seed=0)
        answer = classifier.predict(attacked.pixels, seed=9)
        meant = (answer.logits.argmax(dim=1) != labels) & (answer.countered == countered)
        shares.append(meant.double().mean())
        if attack == name:
            assert meant[attacked.broken].all()
    assert shares[1] > shares[0]


def test_slack_is_for_noise_alone(tiny_clip, tokenizer):
    """A measure that draws nothing is pushed to its threshold and no further."""
    x = pixels(12).float() / 255
    system, _, labels = stages(tiny_clip, tokenizer, x)
    assert system.branches is not None
    drawn = dataclasses.replace(system, branches=system.branches._replace(draws=True))
    made = {
        slack: [
            make("gate", steps=1, stops=False, slack=slack).run(s, x, labels, eps=EPS, seed=0).pixels
            for s in (system, drawn)
        ]
        for slack in (0.0, 0.5)
    }
    assert torch.equal(made[0.0][0], made[0.5][0])
    assert not torch.equal(made[0.0][1], made[0.5][1])


@pytest.mark.parametrize(
    ("name", "forward", "backward"),
    # f(x) by itself; of an ungated image BPDA's 2 of the gate, 2 steps, 2 views and their gradient; and what
    # the gate measures, with its gradient where it is pushed.
    [("gate-passed", 1 + 2, 1 + 2), ("both-branches", 1 + (2 + 2 + 2) + 2, 1 + (2 + 2) + 0)],
)
def test_both_ways_are_paid_for(tiny_clip, tokenizer, name, forward, backward):
    x = pixels(6).float() / 255
    system, _, labels = stages(tiny_clip, tokenizer, x, views=("mirror", "crop 0.8 centre"))
    spent = make(name, steps=1, stops=False).run(system, x, labels, eps=EPS, seed=0).passes
    assert (spent.forward, spent.backward) == (forward, backward)


@pytest.mark.parametrize("held", [True, False])
def test_broken_is_what_is_wrong_the_way_that_the_gate_sends_it(held):
    logits, x, labels = toy_batch(8)
    wrong = Branches(lambda x: -logits(x), logits, draws=False)  # passed, countered
    system = dataclasses.replace(
        toy_system(logits), drift=lambda x: x.mean(dim=(1, 2, 3)), tau_threshold=float(held), branches=wrong
    )
    for name in ("gate-passed", "gate-countered", "both-branches"):
        found = make(name, steps=1).run(system, x, labels, eps=1e-6, seed=0)
        expected = not held and name != "gate-countered"
        assert found.broken.tolist() == [expected] * len(x), name
