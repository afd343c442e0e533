from __future__ import annotations

import dataclasses

import pytest
import torch
from conftest import make_classifier, make_tiny_clip, pixels
from towers import TRACED

from clipfast import CounterattackConfig
from clipfast.attacks import make
from clipfast.attacks.pass_counter import PassCounter
from clipfast.attacks.system import undefended
from clipfast.defence.passes import engine_passes
from clipfast.evaluation.defences import systems

N = 6


def counted(classifier, call) -> tuple[int, int]:
    with PassCounter(classifier) as spent:
        call()
    return spent.forward, spent.backward


@pytest.fixture
def x():
    return pixels(N).float() / 255


def backward(logits, x):
    leaf = x.clone().requires_grad_()
    torch.autograd.grad(logits(leaf).sum(), leaf)


@pytest.mark.parametrize("implementation", ["auto", "reference"])
@pytest.mark.parametrize(("threshold", "expected"), [(0.0, (2 * N, 0)), (1e9, (4 * N, 2 * N))])
@pytest.mark.parametrize("drift_model", [False, True])
@pytest.mark.parametrize("pass_through", ["noise", "clean"])
@pytest.mark.parametrize("gate", ["drift", "agreement"])
def test_an_answer_costs_what_its_gate_says(
    tiny_clip, tokenizer, x, implementation, threshold, expected, drift_model, pass_through, gate
):
    """Of the engine by its rule, of the reference by what the towers are seen to do."""
    config = CounterattackConfig(tau_threshold=threshold, pass_through=pass_through, gate=gate)
    if gate == "agreement" and threshold == 0:
        config = dataclasses.replace(config, transform="low_pass 100")  # the cosine is 1
    other = make_tiny_clip(seed=5) if drift_model else None
    classifier = make_classifier(
        tiny_clip, tokenizer, config=config, implementation=implementation, drift_model=other
    )
    # The reference's own loop: a prediction gives undefended logits besides.
    attackable = classifier.differentiable("bpda")
    with torch.no_grad():
        forward, backwards = counted(classifier, lambda: attackable(x))
    if implementation == "reference" or not threshold:
        forward -= N  # the answer, which the attacker asks for again
    extra = 0
    if drift_model:
        extra = 2 * N if threshold else N
    elif gate == "agreement":
        extra = N if threshold or pass_through == "noise" else 0
    assert (forward, backwards) == (expected[0] + extra, expected[1])


def test_the_engine_s_rule_counts_images_by_their_side_of_the_gate():
    config = CounterattackConfig(steps=3)
    assert engine_passes(config, images=10, countered=4) == (20 + 12, 12)
    assert engine_passes(config, images=10, countered=0) == (20, 0)
    assert engine_passes(config, images=10, countered=4, drift_encoder=True) == (20 + 6 + 4 * 5, 12)


def test_plain_clip_and_its_gradient(classifier, x):
    for logits in (classifier.undefended, classifier.differentiable("undefended")):
        with torch.no_grad():
            assert counted(classifier, lambda logits=logits: logits(x)) == (N, 0)
        assert counted(classifier, lambda logits=logits: backward(logits, x)) == (N, N)


def test_unrolled_gradients_go_through_every_pass_backwards(tiny_clip, tokenizer, x):
    config = CounterattackConfig(tau_threshold=1e9)
    classifier = make_classifier(tiny_clip, tokenizer, config=config)
    unrolled = classifier.differentiable("unrolled")
    # 4 forward and 2 backward passes, each of which is gone through once more.
    assert counted(classifier, lambda: backward(unrolled, x)) == (4 * N, 2 * N + 6 * N)


def test_bpda_adds_a_pass_backwards_and_answers_once(tiny_clip, tokenizer, x):
    config = CounterattackConfig(tau_threshold=1e9)
    classifier = make_classifier(tiny_clip, tokenizer, config=config)
    bpda = classifier.differentiable("bpda")
    assert counted(classifier, lambda: backward(bpda, x)) == (4 * N, 3 * N)


def test_counting_ends_with_its_block(classifier, x):
    engine, before = classifier.engine, classifier.engine.run
    with PassCounter(classifier) as spent:
        classifier.predict(x)
    seen = spent.forward
    assert seen >= 2 * N
    classifier.predict(x)
    classifier.undefended(x)
    assert spent.forward == seen
    assert engine.run == before
    assert not classifier.image_tower._forward_hooks
    with PassCounter() as nothing:
        classifier.predict(x)
    assert nothing.an_image(N).forward == 0


def test_attacks_say_what_an_image_cost(classifier, tiny_clip, tokenizer, x):
    labels = classifier.undefended(x).argmax(dim=1)
    plain = undefended(classifier)
    spent = make("pgd-10").run(plain, x, labels, eps=1 / 255, seed=0).passes
    assert (spent.forward, spent.backward) == (10, 10)
    held = make_classifier(tiny_clip, tokenizer, config=CounterattackConfig(tau_threshold=1e9))
    attack = make("bpda", steps=3, samples=2, stops=False)
    spent = attack.run(systems.countered(held), x, labels, eps=1 / 255, seed=0).passes
    assert (spent.forward, spent.backward) == (3 * 2 * 4, 3 * 2 * 3)
    # A gate's measure and its gradient are two of each.
    attack = make("gate", steps=3, samples=2, stops=False)
    spent = attack.run(systems.countered(held), x, labels, eps=1 / 255, seed=0).passes
    assert (spent.forward, spent.backward) == (3 * 2 * 6, 3 * 2 * 5)
    assert (
        make("retries", times=4).run(systems.countered(held), x, labels, eps=1, seed=0).passes.backward <= 8
    )


@pytest.mark.parametrize("family", ["resnet", "timm siglip"])
def test_a_traced_tower_costs_what_an_explicit_one_does(tokenizer, family):
    """Neither its tracing counts, nor the passes that it leaves to the tower itself twice."""
    config = CounterattackConfig(tau_threshold=1e9)
    classifier = make_classifier(TRACED[family](), tokenizer, config=config)
    x = torch.rand(N, 3, *classifier.image_size)
    bpda = classifier.differentiable("bpda")
    with torch.no_grad():
        assert counted(classifier, lambda: bpda(x)) == (4 * N, 2 * N)
    assert classifier.engine.encoder.form == "traced"
    assert counted(classifier, lambda: backward(classifier.differentiable("undefended"), x)) == (N, N)
    with torch.no_grad():
        assert counted(classifier, lambda: classifier.undefended(x)) == (N, 0)
