from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import pixels
from toys import noisy, plain, toy_logits, toy_pixels

from clipfast import InputError
from clipfast.attacks import ATTACKS, TRANSFER, Attack, make
from clipfast.attacks.registry import settings_of
from clipfast.attacks.system import Answer, System, undefended
from clipfast.evaluation.defences import systems

SHORT = {"steps": 3, "queries": 6, "times": 3}


def short(name: str) -> Attack:
    return make(name, **settings_of(name, SHORT))


@pytest.mark.parametrize("name", ATTACKS)
def test_a_seed_fixes_everything_and_disturbs_nothing(classifier, name):
    system = undefended(classifier) if name in TRANSFER else systems.countered(classifier)
    x = pixels(5).float() / 255
    labels = classifier.undefended(x).argmax(dim=1)
    attack = short(name)
    assert attack.applies(system)
    state, numbers = torch.get_rng_state(), np.random.get_state()
    runs = [attack.run(system, x, labels, eps=4 / 255, seed=seed) for seed in (7, 7, 8)]
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numbers[1])
    first, second, other = runs
    assert torch.equal(first.pixels, second.pixels)
    assert torch.equal(first.broken, second.broken)
    assert first.passes == second.passes
    if attack.keeps_pixels:
        assert torch.equal(first.pixels, x)
    else:
        assert not torch.equal(first.pixels, other.pixels)
    assert first.passes.forward > 0


@pytest.mark.parametrize("name", ATTACKS)
def test_progress_is_made_exactly_as_often_as_announced(name):
    logits = toy_logits()
    system = noisy(logits, 0.1) if name in ("retries", "apgd-eot") else plain(logits)
    attack = short(name)
    if not attack.applies(system):
        pytest.skip("toys have no gate and no steps of their own")
    x = toy_pixels(6)
    labels = logits(x).argmax(dim=1)
    for eps in (1e-3, 0.9):  # in which nothing and everything breaks
        ticks = []
        attack.run(system, x, labels, eps=eps, seed=0, progress=lambda ticks=ticks: ticks.append(1))
        assert len(ticks) == attack.ticks


def test_an_attack_takes_of_the_settings_offered_those_that_it_has():
    offered = {"steps": 100, "samples": 10, "restarts": 5, "times": 3}
    assert settings_of("bpda", offered) == {"steps": 100, "samples": 10, "restarts": 5}
    assert settings_of("retries", offered) == {"times": 3}
    assert settings_of("black-box", offered) == {}


def test_a_system_and_its_logits_are_attacked_alike():
    logits, x = toy_logits(), toy_pixels(6)
    labels = logits(x).argmax(dim=1)
    for name in ("pgd-10", "square", "apgd-dlr"):
        runs = [make(name).run(target, x, labels, eps=0.1, seed=1) for target in (plain(logits), logits)]
        assert torch.equal(runs[0].pixels, runs[1].pixels)


def test_bytes_are_attacked_as_their_unit_pixels():
    logits = toy_logits()
    x = (toy_pixels(4) * 255).to(torch.uint8)
    labels = logits(x / 255).argmax(dim=1)
    a, b = (make("pgd-10").run(logits, p, labels, eps=0.1, seed=1).pixels for p in (x, x / 255))
    assert torch.equal(a, b)


def test_labels_decide_what_is_moved_away_from():
    logits, x = toy_logits(), toy_pixels(16)
    predicted = logits(x).argmax(dim=1)
    others = (predicted + 1) % 10
    away = make("pgd-10").run(logits, x, predicted, eps=0.1, seed=1).pixels
    towards = make("pgd-10").run(logits, x, others, eps=0.1, seed=1).pixels
    rows = torch.arange(16)
    assert (logits(away)[rows, predicted] < logits(x)[rows, predicted]).all()
    assert (logits(towards)[rows, others] < logits(x)[rows, others]).all()


@pytest.mark.parametrize("name", ["bpda", "targeted", "apgd-eot"])
@pytest.mark.parametrize(("batch_size", "largest"), [(None, 2), (1, 2), (6, 6), (100, 8)])
def test_samples_share_a_call_of_the_target_where_there_is_room(name, batch_size, largest):
    logits, x = toy_logits(), toy_pixels(2)
    calls = []

    def counted(pixels):
        calls.append(len(pixels))
        return logits(pixels)

    system = System(
        name="counted", answer=lambda p, **_: Answer(logits(p)), attackable=counted, randomised=True
    )
    attack = make(name, steps=2, samples=4, restarts=2, stops=False)
    attack.run(system, x, logits(x).argmax(dim=1), eps=1e-6, seed=0, batch_size=batch_size)
    assert max(calls) == largest


def test_there_is_no_room_for_less_than_one_image():
    with pytest.raises(InputError, match="batch_size must be an integer from 1 to 999999, got 0"):
        make("bpda").run(
            toy_logits(), toy_pixels(1), torch.zeros(1, dtype=torch.int64), eps=0.1, seed=0, batch_size=0
        )


def test_no_images_are_no_trouble():
    attacked = make("bpda").run(
        toy_logits(), toy_pixels(0), torch.zeros(0, dtype=torch.int64), eps=0.1, seed=0
    )
    assert attacked.pixels.shape == (0, 3, 8, 8)
    assert attacked.broken.shape == (0,)
    assert attacked.passes == (0, 0) or attacked.passes.forward == 0


def test_what_a_system_lacks_is_a_property():
    logits = toy_logits()
    assert not make("unrolled").applies(plain(logits))
    assert not make("gate").applies(plain(logits))
    assert not make("retries").applies(plain(logits))
    assert make("retries").applies(noisy(logits, 0.1))
    assert make("bpda").applies(plain(logits))
    with pytest.raises(InputError, match="to which 'unrolled' applies, got 'plain'"):
        make("unrolled").run(plain(logits), toy_pixels(1), torch.zeros(1, dtype=torch.int64), eps=0.1, seed=0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"labels": torch.tensor([0, 10])}, "labels below 10, the classes, got 10"),
        ({"labels": torch.tensor([0, -1])}, "labels from 0, got -1"),
        ({"labels": torch.tensor([0])}, r"labels \[2\], got \[1\]"),
        ({"labels": torch.tensor([0.0, 1.0])}, "int64 labels, got torch.float32"),
        ({"pixels": toy_pixels(2)[0]}, "one image needs a batch axis"),
        ({"pixels": toy_pixels(2)[:, :1]}, r"got \[2, 1, 8, 8\]"),
        ({"pixels": toy_pixels(2) * 255}, r"float image in \[0, 255\]"),
        ({"pixels": toy_pixels(2).int()}, "uint8 or float pixels, got torch.int32"),
        ({"pixels": [0.5]}, "expected tensors, got list and Tensor"),
        ({"eps": 0.0}, "above 0 and at most 1, got 0"),
        ({"eps": -1 / 255}, "above 0 and at most 1"),
        ({"eps": 4.0}, "above 0 and at most 1, got 4"),
        ({"eps": float("nan")}, "above 0 and at most 1, got nan"),
        ({"seed": -1}, "seed must be an integer"),
    ],
)
@pytest.mark.parametrize("name", ["pgd-10", "apgd-ce", "square"])
def test_bad_input_is_named(name, change, named):
    arguments = {"pixels": toy_pixels(2), "labels": torch.tensor([0, 1]), "eps": 0.1, "seed": 0} | change
    pictures, labels = arguments.pop("pixels"), arguments.pop("labels")
    with pytest.raises(InputError, match=named):
        make(name).run(toy_logits(), pictures, labels, **arguments)


@pytest.mark.parametrize(
    ("name", "settings", "named"),
    [
        ("magic", {}, "unknown attack 'magic'; known: pgd-10, .*retries"),
        ("bpda", {"queries": 3}, "attack 'bpda': .*queries"),
        ("bpda", {"steps": 0}, "steps must be an integer from 1"),
        ("bpda", {"samples": 1.5}, "samples must be an integer"),
        ("bpda", {"restarts": True}, "restarts must be an integer"),
        ("bpda", {"step_size": 0.0}, "step_size"),
        ("bpda", {"loss": "hinge"}, "loss must be one of"),
        ("bpda", {"through": "the wall"}, "through must be"),
        ("gate", {"weight": 0.0}, "weight > 0"),
        ("gate", {"slack": -0.1}, "slack >= 0"),
        ("targeted", {"classes": 0}, "classes must be an integer"),
        ("apgd-dlr", {"steps": 0}, "steps must be an integer"),
        ("square", {"queries": 2}, "queries must be an integer from 3"),
        ("retries", {"times": 0}, "times must be an integer"),
    ],
)
def test_bad_settings_are_named(name, settings, named):
    with pytest.raises(InputError, match=named):
        make(name, **settings)
