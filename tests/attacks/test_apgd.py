"""APGD: against the Adversarial Robustness Toolbox's, and what it keeps, asks and averages."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from counting import counting
from toys import accuracy, noisy, plain, toolbox, toy_batch, toy_logits, toy_pixels

from clipfast import InputError
from clipfast.attacks import make
from clipfast.attacks.system import Answer, System

EPS = 0.015


@pytest.mark.parametrize("steps", [1, 3, 10, 100])
@pytest.mark.parametrize(("loss", "toolbox_loss"), [
    ("cross-entropy", "cross_entropy"), ("dlr", "difference_logits_ratio"),
])  # fmt: skip
def test_best_pixels_are_the_toolboxs_from_the_same_starts(loss, toolbox_loss, steps, monkeypatch):
    from art.attacks.evasion import AutoProjectedGradientDescent, auto_projected_gradient_descent

    def start(n, size, eps, norm):  # noqa: ARG001
        return torch.empty(n, size).uniform_(-eps, eps, generator=torch.Generator().manual_seed(7)).numpy()

    monkeypatch.setattr(auto_projected_gradient_descent, "random_sphere", start)
    logits, x, labels = toy_batch()
    theirs = AutoProjectedGradientDescent(
        toolbox(logits), eps=EPS, eps_step=2 * EPS, max_iter=steps, nb_random_init=1,
        batch_size=len(x), loss_type=toolbox_loss, verbose=False,
    )  # fmt: skip
    theirs.generate(x.numpy(), labels.numpy())
    ours = make("apgd-ce", loss=loss, steps=steps).run(logits, x, labels, eps=EPS, seed=7).pixels
    torch.testing.assert_close(ours, torch.from_numpy(theirs.x_max), rtol=0, atol=1e-5)


def test_the_highest_loss_seen_is_kept():
    logits, x, labels = toy_batch()
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


@pytest.mark.parametrize("randomised", [False, True])
def test_a_step_is_a_look_and_the_last_one_is_judged(randomised):
    logits, x, labels = toy_batch()
    system, counts = counting(logits, randomised=randomised)
    make("apgd-ce", steps=20).run(system, x, labels, eps=EPS, seed=0)
    assert counts[0] == 21 * len(x)


def test_broken_images_are_not_looked_at():
    logits, x, labels = toy_batch()
    system, counts = counting(logits)
    attacked = make("apgd-eot", steps=20).run(system, x, labels, eps=0.3, seed=0)
    assert attacked.broken.all()
    assert (logits(attacked.pixels).argmax(dim=1) != labels).all()
    assert counts[0] < 6 * len(x)


def test_a_broken_image_keeps_what_broke_it_with_however_little_loss():
    unsure_but_right = torch.linspace(0.1, 0, 10)
    wrong_by_a_hair = torch.cat([torch.tensor([0.0, 0.1]), torch.full((8,), -50.0)])
    script, seen = iter([unsure_but_right, wrong_by_a_hair]), []

    def scripted(pixels):
        seen.append(pixels.detach().clone())
        return next(script) + 1e-3 * F.one_hot(torch.tensor([1]), 10) * pixels.mean()

    attacked = make("apgd-eot", steps=3).run(
        scripted, torch.full((1, 3, 4, 4), 0.5), torch.tensor([0]), eps=0.1, seed=0
    )
    assert attacked.broken.all()
    assert torch.equal(attacked.pixels, seen[1])
    assert not torch.equal(seen[0], seen[1])


def test_what_leaves_early_changes_nobody_elses_steps():
    logits, x, labels = toy_batch()
    settings = {"eps": EPS, "seed": 0}
    whole = make("apgd-ce", steps=20).run(logits, x, labels, **settings)
    stopped = make("apgd-eot", steps=20).run(logits, x, labels, **settings)
    stayed = ~stopped.broken
    assert 0 < stayed.sum() < len(x)
    torch.testing.assert_close(stopped.pixels[stayed], whole.pixels[stayed])


def test_samples_of_noise_are_averaged():
    logits, x, labels = toy_batch()
    system = noisy(logits, 0.2)
    left = []
    for samples in (1, 16):
        attack = make("apgd-eot", steps=5, samples=samples)
        left.append(accuracy(system, attack.run(system, x, labels, eps=EPS, seed=0).pixels, labels))
    assert left[1] < left[0]


def test_restarts_go_on_with_what_is_left():
    logits, x, labels = toy_batch()
    once, often = (
        make("apgd-eot", loss="dlr", steps=1, restarts=n).run(plain(logits), x, labels, eps=EPS, seed=1)
        for n in (1, 6)
    )
    assert (often.broken | ~once.broken).all()
    assert torch.equal(often.broken, logits(often.pixels).argmax(dim=1) != labels)
    assert often.broken.sum() > once.broken.sum()


def test_the_first_step_crosses_the_budget():
    logits, x, labels = toy_batch()
    x = x.clamp(0.1, 0.9)
    attacked = make("apgd-ce", steps=1).run(logits, x, labels, eps=EPS, seed=0).pixels
    assert ((attacked - x).abs() > 0.99 * EPS).double().mean() > 0.9


def test_every_second_draw_is_not_enough():
    logits, x, labels = toy_batch()
    calls = []

    def moody(pixels):
        calls.append(1)
        return logits(pixels) * (-1) ** len(calls)

    system = System(name="moody", answer=lambda p, **_: Answer(logits(p)), attackable=moody, randomised=True)
    attacked = make("apgd-eot", steps=20).run(system, x, labels, eps=1e-5, seed=0)
    assert not attacked.broken.any()


def test_dlr_needs_three_classes():
    logits, x = toy_logits(classes=2), toy_pixels(4)
    labels = logits(x).argmax(dim=1)
    with pytest.raises(InputError, match="at least 3 classes for the DLR loss, got 2"):
        make("apgd-dlr").run(logits, x, labels, eps=EPS, seed=0)
    assert make("apgd-ce").run(logits, x, labels, eps=0.3, seed=0).pixels.shape == x.shape
