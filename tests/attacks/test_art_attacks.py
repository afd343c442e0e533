from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from absent import absent
from toys import accuracy, noisy, plain, toy_logits, toy_pixels

from clipfast import InputError
from clipfast.attacks import make
from clipfast.attacks.ascent import Looked
from clipfast.attacks.system import Answer, System

EPS = 0.015


@pytest.fixture
def logits():
    return toy_logits()


@pytest.fixture
def batch(logits):
    x = toy_pixels(64)
    return x, logits(x).argmax(dim=1)


def counting(logits, randomised=False):
    """A system that counts what it is asked, and its counts: images with gradients, images answered."""
    counts = [0, 0]

    def attackable(pixels):
        counts[0] += len(pixels)
        return logits(pixels)

    def answer(pixels, **_):
        counts[1] += len(pixels)
        return Answer(logits(pixels))

    return System(name="counting", answer=answer, attackable=attackable, randomised=randomised), counts


def test_apgd_keeps_the_highest_loss_that_it_saw(logits, batch):
    x, labels = batch
    seen = torch.full((len(x),), -torch.inf)

    def watched(pixels):
        z = logits(pixels)
        if len(pixels) == len(x):
            seen.copy_(torch.maximum(seen, F.cross_entropy(z, labels, reduction="none").detach()))
        return z

    attacked = make("apgd-ce", steps=20).run(watched, x, labels, eps=EPS, seed=0)
    final = F.cross_entropy(logits(attacked.pixels), labels, reduction="none")
    assert (final >= seen - 1e-4).all()
    start = F.cross_entropy(logits(x), labels, reduction="none")
    assert (final > start).all()


def test_apgd_looks_once_a_step_and_not_at_broken_images(logits, batch):
    x, labels = batch
    system, counts = counting(logits)
    make("apgd-ce", steps=20).run(system, x, labels, eps=EPS, seed=0)
    assert counts[0] <= 21 * len(x)  # at each start and after each step, where pixels moved
    system, counts = counting(logits, randomised=True)
    make("apgd-ce", steps=20).run(system, x, labels, eps=EPS, seed=0)
    # A randomised system is asked again, moved or not; and where ART goes back to its best pixels.
    assert 21 * len(x) <= counts[0] <= 26 * len(x)
    system, counts = counting(logits)
    attacked = make("apgd-eot", steps=20).run(system, x, labels, eps=0.3, seed=0)
    assert attacked.broken.all()
    assert counts[0] < 6 * len(x)


def test_apgd_averages_samples_of_noise(logits, batch):
    x, labels = batch
    system = noisy(logits, 0.2)
    left = []
    for samples in (1, 16):
        attack = make("apgd-eot", steps=5, samples=samples)
        left.append(accuracy(system, attack.run(system, x, labels, eps=EPS, seed=0).pixels, labels))
    assert left[1] < left[0]


def test_apgd_restarts_go_on_with_what_is_left(logits, batch):
    x, labels = batch
    once, often = (
        make("apgd-eot", steps=1, restarts=n).run(plain(logits), x, labels, eps=EPS / 2, seed=0)
        for n in (1, 6)
    )
    assert (often.broken | ~once.broken).all()
    assert torch.equal(often.broken, logits(often.pixels).argmax(dim=1) != labels)
    assert often.broken.sum() > once.broken.sum()


def test_apgd_starts_with_steps_across_the_budget(logits, batch):
    x, labels = batch
    x = x.clamp(0.1, 0.9)
    attacked = make("apgd-ce", steps=1).run(logits, x, labels, eps=EPS, seed=0).pixels
    assert ((attacked - x).abs() > 0.99 * EPS).double().mean() > 0.9


def test_apgd_is_not_satisfied_by_every_second_draw(logits, batch):
    x, labels = batch
    calls = []

    def moody(pixels):
        calls.append(1)
        return logits(pixels) * (-1) ** len(calls)

    system = System(name="moody", answer=lambda p, **_: Answer(logits(p)), attackable=moody, randomised=True)
    attacked = make("apgd-eot", steps=20).run(system, x, labels, eps=1e-5, seed=0)
    assert not attacked.broken.any()


@pytest.mark.parametrize("randomised", [False, True])
def test_what_art_asks_twice_is_looked_at_once(randomised):
    from clipfast.attacks.estimators import Watched

    script = iter([([5.0, 1.0], [False, False]), ([2.0, 3.0], [True, False]), ([7.0], [False])])
    asked = []

    def look(pixels, rows):
        asked.append(rows.tolist())
        loss, broken = next(script)
        return Looked(torch.ones_like(pixels), torch.tensor(loss), torch.tensor(broken))

    pixels, labels = toy_pixels(2), torch.tensor([0, 1])
    watched = Watched(
        look, pixels, labels, samples=1, streak=1, randomised=randomised, most=2, tick=lambda: None
    )
    first, second = pixels.numpy(), (pixels * 0.5).numpy()
    watched.loss_gradient(first, None)
    assert watched.compute_loss(first, None).tolist() == [5, 1]
    assert asked == [[0, 1]]
    assert watched.compute_loss(second, None).tolist() == [2, 3]
    watched.loss_gradient(second, None)
    assert asked == [[0, 1], [0, 1]]
    watched.compute_loss(second, None)  # noise is drawn anew, and a broken image is not looked at
    assert asked[2:] == ([[1]] if randomised else [])
    best = watched.ascended()
    assert torch.equal(best.pixels, pixels * 0.5)  # where the first broke, with less loss
    assert best.broken.tolist() == [True, False]


def test_dlr_needs_three_classes():
    logits, x = toy_logits(classes=2), toy_pixels(4)
    labels = logits(x).argmax(dim=1)
    with pytest.raises(InputError, match="at least 3 classes for the DLR loss, got 2"):
        make("apgd-dlr").run(logits, x, labels, eps=EPS, seed=0)
    assert make("apgd-ce").run(logits, x, labels, eps=0.3, seed=0).pixels.shape == x.shape


def test_square_asks_once_a_query_and_stops_at_a_wrong_answer(logits, batch):
    x, labels = batch
    system, counts = counting(logits)
    attacked = make("square", queries=40).run(system, x, labels, eps=1e-6, seed=0)
    assert counts[0] == 0
    assert 35 * len(x) < counts[1] <= 40 * len(x)  # a square may change nothing
    assert not attacked.broken.any()
    system, counts = counting(logits)
    attacked = make("black-box", queries=200).run(system, x, labels, eps=0.5, seed=0)
    assert attacked.broken.all()
    assert counts[1] < 100 * len(x)


def test_square_finds_more_than_as_many_random_corners(logits, batch):
    x, labels = batch
    eps, queries = 0.08, 60
    wrong = torch.zeros(len(x), dtype=torch.bool)
    for _ in range(queries):
        corners = (x + eps * torch.randn_like(x).sign()).clamp(0, 1)
        wrong |= logits(corners).argmax(dim=1) != labels
    attacked = make("square", queries=queries).run(logits, x, labels, eps=eps, seed=0)
    assert accuracy(plain(logits), attacked.pixels, labels) < 1 - wrong.double().mean() - 0.1
    assert torch.equal(attacked.broken, logits(attacked.pixels).argmax(dim=1) != labels)


def test_square_draws_fresh_noise_for_each_query(logits, batch):
    x, labels = batch
    seeds = []

    def answer(pixels, *, seed, **_):
        seeds.append(seed)
        return Answer(logits(pixels))

    system = System(name="seen", answer=answer, attackable=logits, randomised=True)
    make("black-box", queries=10).run(system, x, labels, eps=1e-6, seed=0)
    assert len(set(seeds)) == len(seeds) == 10


@pytest.mark.parametrize("size", [(4, 4), (8, 3), (3, 8)])
def test_square_fits_into_any_picture(size):
    flat = 3 * size[0] * size[1]
    logits = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(flat, 3)).requires_grad_(False)
    x = torch.rand(2, 3, *size)
    attacked = make("square", queries=30).run(logits, x, logits(x).argmax(dim=1), eps=1e-4, seed=0)
    assert (attacked.pixels - x).abs().max() > 0


def test_a_missing_library_names_its_extra(logits, batch):
    named = r"the Square attack needs art.*clipfast\[eval\]'"
    with (
        absent("art", "clipfast.attacks.estimators"),
        pytest.raises(ModuleNotFoundError, match=named),
    ):
        make("square").run(logits, *batch, eps=EPS, seed=0)
    assert make("square", queries=3).run(logits, *batch, eps=EPS, seed=0).pixels.shape == batch[0].shape
