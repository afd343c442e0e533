from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from clipfast.attacks import pgd
from clipfast.attacks.ascent import (
    Ascended,
    Looked,
    ascend,
    averaged,
    signed_steps,
    step_sizes,
    streak_of,
)
from clipfast.attacks.restarts import best_of


@pytest.fixture
def system():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4)
    )


@pytest.fixture
def batch(system):
    x = torch.rand(16, 3, 8, 8)
    return x, system(x).argmax(1)


def climb(look, x, sizes, *, samples=1, **options):
    step = signed_steps(x, 0.4, sizes)
    return ascend(averaged(look, samples, len(x)), x, step, steps=len(sizes), **options)


def test_breaks_the_system_within_its_budget(system, batch):
    x, labels = batch
    attacked = pgd(system, x, labels, eps=0.2, step_size=0.05, steps=20)
    assert (attacked - x).abs().max() <= 0.2 + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    before, after = (F.cross_entropy(system(p), labels).item() for p in (x, attacked))
    assert after > before + 0.5
    assert (system(attacked).argmax(1) == labels).double().mean() < 0.5
    assert not attacked.requires_grad


def test_climbs_the_gradient_of_a_linear_system_to_the_corner():
    weight = torch.randn(2, 3 * 4 * 4)
    x = torch.full((3, 3, 4, 4), 0.5)
    labels = torch.zeros(3, dtype=torch.int64)
    attacked = pgd(lambda p: p.flatten(1) @ weight.T, x, labels, eps=0.1, step_size=0.05, steps=8)
    corner = 0.5 + 0.1 * (weight[1] - weight[0]).sign().reshape(3, 4, 4)
    torch.testing.assert_close(attacked, corner.expand_as(attacked))


def test_generator_fixes_the_start(system, batch):
    x, labels = batch

    def run(seed):
        return pgd(
            system,
            x,
            labels,
            eps=0.1,
            step_size=0.001,
            steps=1,
            generator=torch.Generator().manual_seed(seed),
        )

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_samples_average_a_randomised_system(batch, system):
    x, labels = batch
    calls = []

    def noisy(p):
        calls.append(len(p))
        return system(p + 0.3 * torch.randn_like(p))

    steps = []
    pgd(noisy, x, labels, eps=0.1, step_size=0.02, steps=3, samples=5, progress=lambda: steps.append(1))
    assert len(calls) == 15
    assert len(steps) == 3


def test_the_first_step_s_samples_are_averaged():
    x = torch.full((1, 3, 8, 8), 0.5)
    pushes = iter([3.0, -1.0, -1.0])

    def look(pixels, rows):
        gradient = torch.full_like(pixels, next(pushes))
        return Looked(gradient, torch.zeros(len(rows)), torch.zeros(len(rows), dtype=torch.bool))

    ended = climb(look, x, [0.05], samples=3)
    torch.testing.assert_close(ended.pixels, x + 0.05)


@pytest.mark.parametrize(
    ("batch_size", "calls"), [(1, [2] * 5), (2, [2] * 5), (5, [4, 4, 2]), (6, [6, 4]), (100, [10])]
)
def test_samples_are_looked_at_together_as_far_as_there_is_room(batch_size, calls):
    pixels, rows = torch.arange(2.0)[:, None, None, None].expand(2, 3, 1, 1), torch.tensor([7, 3])
    asked, losses = [], iter([[1.0, 2.0], [4.0, 2.0], [1.0, 5.0], [0.0, 0.0], [9.0, 1.0]])

    def look(x, some):
        times = len(some) // 2
        assert torch.equal(x, pixels.repeat(times, 1, 1, 1))
        assert torch.equal(some, rows.repeat(times))
        asked.append(len(some))
        loss = torch.tensor([next(losses) for _ in range(times)]).flatten()
        return Looked(x * loss[:, None, None, None], loss, loss > 0.5 * (some == 3))

    looked = averaged(look, 5, batch_size)(pixels, rows)
    assert asked == calls
    assert looked.loss.tolist() == [3, 2]
    assert looked.gradient[:, 0, 0, 0].tolist() == [0, 2]
    assert looked.broken.tolist() == [False, False]
    losses = iter([[1.0, 2.0], [4.0, 0.0]])
    assert averaged(look, 2, batch_size)(pixels, rows).broken.tolist() == [True, False]


def test_of_several_ascents_the_one_that_breaks_wins_and_else_the_highest_loss():
    def ended(*images):
        pixels, broken, loss = zip(*images, strict=True)
        return Ascended(torch.tensor(pixels)[:, None, None, None], torch.tensor(broken), torch.tensor(loss))

    asked = []

    def ascents():
        for made in (
            ended((0.1, False, 5.0), (0.2, False, 1.0), (0.3, False, 3.0)),
            ended((0.4, True, 2.0), (0.5, False, 4.0), (0.6, False, 2.0)),
            ended((0.7, False, 3.0), (0.8, True, 9.0)),
        ):
            yield lambda rows, made=made: asked.append(rows.tolist()) or made

    pixels, broken = best_of(ascents(), torch.zeros(3, 1, 1, 1))
    torch.testing.assert_close(pixels.flatten(), torch.tensor([0.4, 0.5, 0.8]))
    assert broken.tolist() == [True, False, True]
    assert asked == [[0, 1, 2], [0, 1, 2], [1, 2]]


def scripted(broken_at):
    """Looks that break image i at its draws broken_at[i]; and what they were asked."""
    asked, drawn = [], Counter()

    def look(pixels, rows):
        asked.append(rows.tolist())
        draws = []
        for i in rows.tolist():
            draws.append(drawn[i])
            drawn[i] += 1
        broken = torch.tensor([draw in broken_at[i] for i, draw in zip(rows.tolist(), draws, strict=True)])
        return Looked(torch.ones_like(pixels), torch.tensor(draws, dtype=torch.float32), broken)

    return look, asked


def test_broken_images_keep_their_pixels_and_leave():
    x = torch.full((3, 3, 2, 2), 0.5)
    look, asked = scripted([{0}, {2, 3}, set()])
    ended = climb(look, x, [0.1] * 4, streak=1)
    assert asked == [[0, 1, 2], [1, 2], [1, 2], [2]]
    torch.testing.assert_close(ended.pixels[:, 0, 0, 0], torch.tensor([0.5, 0.7, 0.9]))
    assert ended.broken.tolist() == [True, True, False]
    assert ended.loss.tolist() == [0, 2, 3]


def test_a_streak_must_be_whole():
    x = torch.full((2, 3, 2, 2), 0.5)
    look, asked = scripted([{0, 2, 3}, {1, 2, 3}])
    ended = climb(look, x, [0.1] * 5, streak=3)
    assert asked == [[0, 1], [0, 1], [0, 1], [0, 1], [0]]
    assert ended.broken.tolist() == [False, True]


def test_every_sample_of_a_step_must_err():
    x = torch.full((2, 3, 2, 2), 0.5)
    look, asked = scripted([{0, 2, 3}, {1, 4}])  # two draws a step
    ended = climb(look, x, [0.1] * 3, samples=2, streak=1)
    assert asked == [[0, 1], [0, 1], [0, 1], [0, 1], [1, 1]]  # few are looked at twice in one call
    assert ended.broken.tolist() == [True, False]


def test_without_a_streak_nobody_leaves_and_a_last_look_is_no_step():
    x = torch.full((1, 3, 2, 2), 0.5)
    look, asked = scripted([{0, 1, 2, 3}])
    ended = climb(look, x, [0.1] * 3, final_look=True)
    assert len(asked) == 4
    torch.testing.assert_close(ended.pixels, x + 0.3)
    assert ended.loss.tolist() == [3]
    assert not ended.broken.any()
    look, asked = scripted([{3}])
    assert climb(look, x, [0.1] * 3, final_look=True, streak=1).broken.all()


@pytest.mark.parametrize(
    ("samples", "steps", "randomised", "expected"),
    [
        (1, 100, True, 8),
        (3, 100, True, 3),
        (8, 100, True, 1),
        (20, 100, True, 1),
        (1, 5, True, 5),
        (1, 100, False, 1),
    ],
)
def test_one_lucky_draw_breaks_nothing(samples, steps, randomised, expected):
    assert streak_of(samples, steps, randomised=randomised) == expected


def test_steps_are_as_published_or_fall_from_the_budget():
    assert step_sizes(2, 4 / 255, 1 / 255) == [1 / 255] * 2
    assert step_sizes(2, 0.5 / 255, 1 / 255) == [0.5 / 255] * 2
    assert step_sizes(4, 0.4) == pytest.approx([0.4, 0.3, 0.2, 0.1])
