from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clipfast import CounterattackConfig, InputError
from clipfast.evaluation.defences import baselines
from clipfast.evaluation.defences.baselines import (
    ET3,
    NormalisedSteps,
    anti_adversary,
    blur,
    energy_lowered,
    ensemble,
    hedge,
    views,
)


def test_blur_is_a_three_by_three_mean_with_replicated_edges():
    x = torch.rand(2, 3, 5, 6)
    blurred = blur(x)
    assert blurred.shape == x.shape
    torch.testing.assert_close(blurred[:, :, 2, 3], x[:, :, 1:4, 2:5].mean(dim=(2, 3)))
    corner = (4 * x[:, :, 0, 0] + 2 * x[:, :, 0, 1] + 2 * x[:, :, 1, 0] + x[:, :, 1, 1]) / 9
    torch.testing.assert_close(blurred[:, :, 0, 0], corner)
    flat = torch.full((1, 3, 4, 4), 0.7)
    torch.testing.assert_close(blur(flat), flat)


def enlarging(whole: int, first: int) -> Tensor:
    """Bilinear enlargement of 7/8 of a side, from `first` on, as a matrix [whole, whole]."""
    size = whole * 7 // 8
    matrix = torch.zeros(whole, whole, dtype=torch.float64)
    for i in range(whole):
        at = min(max((i + 0.5) * size / whole - 0.5, 0), size - 1)
        low = min(int(at), size - 2)
        matrix[i, first + low] += 1 - (at - low)
        matrix[i, first + low + 1] += at - low
    return matrix


def test_views_are_the_picture_its_corners_and_their_mirror_images():
    x = torch.rand(2, 3, 16, 24, dtype=torch.float64)
    shown = views(x)
    assert shown.shape == (10, 2, 3, 16, 24)
    expected = [x]
    for top in (0, 2):
        for left in (0, 3):
            expected.append(enlarging(16, top) @ x @ enlarging(24, left).T)
    expected += [view.flip(3) for view in expected]
    torch.testing.assert_close(shown, torch.stack(expected), rtol=0, atol=1e-12)
    assert shown.min() >= 0
    assert shown.max() <= 1


@pytest.fixture
def weight() -> Tensor:
    return torch.randn(3 * 8 * 8, 5, dtype=torch.float64)


@pytest.fixture
def x() -> Tensor:
    x = torch.rand(6, 3, 8, 8, dtype=torch.float64)
    x[0] = x[0].round()  # at the bounds
    return x


class Model:
    """Logits that are not linear in the pixels; counts the images that they are asked for."""

    def __init__(self, weight: Tensor) -> None:
        self.weight, self.asked = weight, 0

    def __call__(self, p: Tensor) -> Tensor:
        self.asked += len(p)
        return (3 * p.flatten(1) - 1).sin() @ self.weight


def test_ensemble_is_the_mean_of_the_views_logits(weight, x):
    logits = Model(weight)
    together = ensemble(logits, x)
    assert logits.asked == 10 * len(x)
    torch.testing.assert_close(together, sum(logits(view) for view in views(x)) / 10)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(ensemble(logits, leaf)[:, 1].sum(), leaf)
    moved = x.clone()
    moved[3, 1, 2, 7] += 1e-6
    slope = (ensemble(logits, moved) - together)[3, 1] / 1e-6
    torch.testing.assert_close(gradient[3, 1, 2, 7], slope, rtol=1e-4, atol=0)


def by_hand(weight: Tensor, x: Tensor, d: Tensor, loss, config, direction=torch.sign) -> Tensor:
    """Steps down a loss whose gradient in the logits, of the probabilities, is derived on paper."""
    d = torch.minimum(torch.maximum(d, -x), 1 - x)
    for _ in range(config.steps):
        inner = 3 * (x + d).flatten(1) - 1
        p = torch.softmax(inner.sin() @ weight, dim=1)
        gradient = (loss(p) @ weight.T) * 3 * inner.cos()
        d = d - config.step_size * direction(gradient).view_as(d)
        d = torch.clip(d, -config.eps, config.eps)
        d = torch.clip(x + d, 0, 1) - x
    return x + d


CONFIGS = [CounterattackConfig(), CounterattackConfig(eps=0.05, step_size=0.02, steps=5)]


@pytest.mark.parametrize("config", CONFIGS)
def test_anti_adversary_descends_the_loss_of_its_own_label(weight, x, config):
    logits = Model(weight)
    moved = anti_adversary(logits, x, config)
    assert logits.asked == (1 + config.steps) * len(x)
    labels = logits(x).argmax(dim=1)
    onehot = F.one_hot(labels, 5)
    expected = by_hand(weight, x, torch.zeros_like(x), lambda p: p - onehot, config)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-12)
    before, after = (F.cross_entropy(logits(p), labels, reduction="none") for p in (x, moved))
    assert (after < before).all()
    assert_in_budget(x, moved, config)


@pytest.mark.parametrize("config", CONFIGS)
def test_hedge_ascends_the_loss_of_every_label(weight, x, config):
    logits = Model(weight)
    noise = (2 * torch.rand_like(x) - 1) * config.eps
    moved = hedge(logits, x, noise, config)
    assert logits.asked == config.steps * len(x)
    # Of the sum of -log p_c the gradient in the logits is 5 p - 1; its descent is that of the negative.
    expected = by_hand(weight, x, noise, lambda p: 1 - 5 * p, config)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-12)
    start = (x + noise).clamp(0, 1)
    before, after = (-logits(p).log_softmax(dim=1).mean(dim=1) for p in (start, moved))
    assert (after > before).all()
    assert_in_budget(x, moved, config)


ENERGY_STEPS = [ET3, NormalisedSteps(eps=0.05, step_size=0.3, steps=4)]


@pytest.mark.parametrize("config", ENERGY_STEPS)
def test_energy_is_lowered_along_its_normalised_gradient(weight, x, config):
    logits = Model(weight)
    moved = energy_lowered(logits, x, config)
    assert logits.asked == config.steps * len(x)

    def unit(gradient: Tensor) -> Tensor:
        return torch.stack([row / row.pow(2).sum().sqrt() for row in gradient])

    # Of -log sum exp the gradient in the logits is -p.
    expected = by_hand(weight, x, torch.zeros_like(x), lambda p: -p, config, unit)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-12)
    before, after = (-logits(p).exp().sum(dim=1).log() for p in (x, moved))
    assert (after < before).all()
    assert_in_budget(x, moved, config)
    each = torch.cat([energy_lowered(logits, picture[None], config) for picture in x])
    torch.testing.assert_close(moved, each, rtol=0, atol=1e-12)


def test_a_flat_energy_moves_nothing(x):
    def flat(p: Tensor) -> Tensor:
        return 0 * p.flatten(1)[:, :3]

    assert torch.equal(energy_lowered(flat, x), x)


def assert_in_budget(x: Tensor, moved: Tensor, config: CounterattackConfig | NormalisedSteps) -> None:
    assert not moved.requires_grad
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert (moved - x).abs().max() <= config.eps + 1e-12
    assert (moved - x).abs().max() > config.eps / 3


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_they_work_where_gradients_are_off(weight, x, mode):
    logits, config = Model(weight), CounterattackConfig()

    def moved(p: Tensor) -> tuple[Tensor, ...]:
        return (
            anti_adversary(logits, p, config),
            hedge(logits, p, 0.01 * p, config),
            energy_lowered(logits, p),
        )

    expected = moved(x)
    with mode():
        y = x.clone()
        ours = moved(y)
    for a, b in zip(ours, expected, strict=True):
        assert torch.equal(a, b)


def test_where_directions_are_smooth_the_gradient_runs_through_the_steps(weight, x):
    logits, config = Model(weight), CounterattackConfig(eps=0.5, step_size=0.02, steps=3)
    x = x[1:2].clamp(0.2, 0.8)
    noise = torch.full_like(x, 0.01)
    options = {"sign": lambda g: torch.tanh(0.2 * g), "create_graph": True}
    for moved in (
        lambda p: anti_adversary(logits, p, config, **options),
        lambda p: hedge(logits, p, noise, config, **options),
        lambda p: energy_lowered(logits, p, NormalisedSteps(0.5, 0.3, 3), create_graph=True),
    ):
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(logits(moved(leaf))[0, 2], leaf)
        (held,) = torch.autograd.grad(logits(leaf + (moved(leaf) - leaf).detach())[0, 2], leaf)
        assert (gradient - held).abs().max() > 0.01 * held.abs().max()
        for index in [(0, 0, 1, 2), (0, 2, 3, 0)]:
            step = torch.zeros_like(x)
            step[index] = 1e-6
            up, down = (logits(moved(p.requires_grad_()))[0, 2].item() for p in (x + step, x - step))
            assert gradient[index].item() == pytest.approx((up - down) / 2e-6, rel=1e-4)


def test_published_budgets():
    anti, hd = baselines.ANTI_ADVERSARY, baselines.HEDGE
    assert (anti.eps, anti.step_size, anti.steps) == (0.3, 0.15, 2)
    assert (hd.eps, hd.step_size, hd.steps) == (0.031, 0.007, 20)
    assert ET3 == (5 / 255, 2.5, 2)


def test_another_norm_is_named(weight, x):
    config = CounterattackConfig(norm="l2", eps=1.0, step_size=0.5)
    with pytest.raises(InputError, match="expected a budget in norm 'linf', got 'l2'"):
        anti_adversary(Model(weight), x, config)
    with pytest.raises(InputError, match="expected a budget in norm 'linf', got 'l2'"):
        hedge(Model(weight), x, x, config)
