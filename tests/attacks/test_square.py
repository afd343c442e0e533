"""Square: against the Adversarial Robustness Toolbox's, and how it asks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from counting import counting
from toys import accuracy, plain, toolbox, toy_batch

from clipfast.attacks import make
from clipfast.attacks.system import Answer, System


@pytest.mark.parametrize(("queries", "eps"), [(3, 0.08), (10, 0.08), (10, 0.3), (100, 0.01)])
def test_pixels_are_the_toolboxs_of_the_same_draws(queries, eps, monkeypatch):
    from art.attacks.evasion import SquareAttack

    logits, x, labels = toy_batch()
    theirs = SquareAttack(
        toolbox(logits), eps=eps, max_iter=queries - 2, p_init=0.8, batch_size=len(x), verbose=False
    )
    generator = torch.Generator().manual_seed(7)

    def place(low, high):  # the toolbox leaves the last row and column out
        return low + int(torch.randint(high + 1, (), generator=generator))

    def signs(values, size):
        return max(values) * (2 * torch.randint(2, tuple(size), generator=generator) - 1).numpy()

    monkeypatch.setattr("clipfast.attacks.square.torch_seed", lambda: 0)  # which draws from the same stream
    ours = make("square", queries=queries).run(logits, x, labels, eps=eps, seed=7)
    monkeypatch.setattr(np.random, "randint", place)
    monkeypatch.setattr(np.random, "choice", signs)
    attacked = torch.from_numpy(theirs.generate(x.numpy(), labels.numpy()))
    torch.testing.assert_close(ours.pixels, attacked, rtol=0, atol=1e-5)
    assert torch.equal(ours.broken, logits(attacked).argmax(dim=1) != labels)
    assert ours.broken.any()


def test_it_asks_once_a_query_and_stops_at_a_wrong_answer():
    logits, x, labels = toy_batch()
    system, counts = counting(logits)
    attacked = make("square", queries=40).run(system, x, labels, eps=1e-6, seed=0)
    assert counts[0] == 0
    assert 35 * len(x) < counts[1] <= 40 * len(x)  # a square may change nothing
    assert not attacked.broken.any()
    system, counts = counting(logits)
    attacked = make("black-box", queries=200).run(system, x, labels, eps=0.5, seed=0)
    assert attacked.broken.all()
    assert counts[1] < 100 * len(x)


def test_it_finds_more_than_as_many_random_corners():
    logits, x, labels = toy_batch()
    eps, queries = 0.08, 60
    wrong = torch.zeros(len(x), dtype=torch.bool)
    for _ in range(queries):
        corners = (x + eps * torch.randn_like(x).sign()).clamp(0, 1)
        wrong |= logits(corners).argmax(dim=1) != labels
    attacked = make("square", queries=queries).run(logits, x, labels, eps=eps, seed=0)
    assert accuracy(plain(logits), attacked.pixels, labels) < 1 - wrong.double().mean() - 0.1
    assert torch.equal(attacked.broken, logits(attacked.pixels).argmax(dim=1) != labels)


def test_each_query_draws_fresh_noise():
    logits, x, labels = toy_batch()
    seeds = []

    def answer(pixels, *, seed, **_):
        seeds.append(seed)
        return Answer(logits(pixels))

    system = System(name="seen", answer=answer, attackable=logits, randomised=True)
    make("black-box", queries=10).run(system, x, labels, eps=1e-6, seed=0)
    assert len(set(seeds)) == len(seeds) == 10


def test_a_change_that_is_none_is_not_asked_about():
    x, asked = torch.full((1, 3, 1, 1), 0.5), []

    def answer(pixels, **_):
        asked.append(pixels)
        return Answer(torch.stack([torch.ones(1), pixels.mean(dim=(1, 2, 3))], dim=1))

    system = System(name="seen", answer=answer, attackable=None)  # each channel is to rise
    make("square", queries=40).run(system, x, torch.tensor([0]), eps=0.1, seed=0)
    assert asked[-1].mean() < 0.6
    highest = max(asked, key=lambda pixels: pixels.mean().item())
    assert sum(torch.equal(pixels, highest) for pixels in asked) == 1
    assert 10 < len(asked) < 40


@pytest.mark.parametrize("size", [(4, 4), (8, 3), (3, 8), (1, 1)])
def test_squares_fit_into_any_picture(size):
    flat = 3 * size[0] * size[1]
    logits = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(flat, 3)).requires_grad_(False)
    x = torch.rand(2, 3, *size)
    attacked = make("square", queries=30).run(logits, x, logits(x).argmax(dim=1), eps=1e-4, seed=0)
    assert (attacked.pixels - x).abs().max() > 0
