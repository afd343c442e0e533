"""What an ideal low-pass filter is, of the fast form and the reference's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from clipfast import reference
from clipfast.defence.low_pass import low_pass

both = pytest.mark.parametrize("form", [low_pass, reference.low_pass], ids=["fast", "reference"])
sizes = pytest.mark.parametrize("size", [(32, 32), (31, 31), (24, 37), (33, 16)])


def wave(size: tuple[int, int], u: float, v: float, *, phase: float = 0.4) -> Tensor:
    """u cycles down and v cycles across a picture: float64 [1, 3, H, W] in [0, 1]."""
    down, across = (torch.arange(n, dtype=torch.float64) / n for n in size)
    angle = 2 * math.pi * (u * down[:, None] + v * across) + phase
    return (0.5 + 0.5 * angle.cos()).expand(1, 3, -1, -1).contiguous()


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@both
@sizes
def test_a_constant_and_slow_waves_stay_and_fast_ones_go(form, size):
    flat = torch.full((1, 3, *size), 0.7, dtype=torch.float64)
    assert_close(form(flat, 1.0), flat)
    for u, v in ((0, 5), (5, 0), (3, 4), (-3, 4), (4, -3), (1, 0)):  # all within, or at, 5 cycles
        assert_close(form(wave(size, u, v), 5.0), wave(size, u, v))
    for u, v in ((0, 6), (6, 0), (4, 4), (-4, 4), (1, 5), (5, -1)):
        assert_close(form(wave(size, u, v), 5.0), torch.full_like(flat, 0.5))
    assert_close(form(wave(size, 3, 4), 4.999), torch.full_like(flat, 0.5))


@both
def test_the_fastest_wave_of_an_even_side(form):
    board = wave((32, 16), 16, 8, phase=0.0)
    assert set(board.round(decimals=9).unique().tolist()) == {0.0, 1.0}
    assert_close(form(board, math.hypot(16, 8) + 1e-3), board)
    assert_close(form(board, math.hypot(16, 8) - 1e-3), torch.full_like(board, 0.5))


@both
@sizes
def test_it_is_a_linear_projection_of_each_plane(form, size):
    a, b = torch.rand(2, 4, 3, *size, dtype=torch.float64)
    once = form(a, 6.5)
    assert_close(form(once, 6.5), once)
    assert_close(form(2 * a - 3 * b, 6.5), 2 * once - 3 * form(b, 6.5))
    assert_close(once.mean(dim=(2, 3)), a.mean(dim=(2, 3)))
    assert_close(once[2:3, 1:2], form(a[2:3, 1:2], 6.5))
    assert (once - a).abs().max() > 0.1
    assert once.shape == a.shape
    assert once.dtype == a.dtype


@both
def test_results_overshoot_beside_an_edge(form):
    edge = torch.zeros(1, 3, 64, 64)
    edge[..., 32:] = 1
    smooth = form(edge, 8)
    assert smooth.dtype == torch.float32
    assert -0.2 < smooth.min() < -0.05
    assert 1.05 < smooth.max() < 1.2


@sizes
def test_the_two_forms_are_one(size):
    x = torch.rand(3, 3, *size, dtype=torch.float64)
    for radius in (0.5, 1.0, 4.2, 10.0, 15.9, 40.0):
        assert_close(low_pass(x, radius), reference.low_pass(x, radius))
    assert_close(low_pass(x, 40.0), x)


@both
def test_it_has_a_gradient(form):
    x = torch.rand(1, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: form(p, 1.5), x)
