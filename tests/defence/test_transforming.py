"""What an ideal low-pass filter is, of the fast form and the reference's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from clipfast import InputError
from clipfast.defence.transforming import picture_map
from clipfast.reference_stages import low_pass, transformed
from clipfast.transforms import PLACES, TRANSFORMS, parse_chain, written


def made(text: str, x: Tensor) -> Tensor:
    return picture_map(text, (x.shape[-2], x.shape[-1]), x.device, x.dtype)(x)


def fast_low_pass(x: Tensor, radius: float) -> Tensor:
    return made(f"low_pass {radius!r}", x)


# The fast form keeps its results in [0, 1].
both = pytest.mark.parametrize("form", [fast_low_pass, low_pass], ids=["fast", "reference"])
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


@sizes
def test_it_is_a_linear_projection_of_each_plane(size):
    a, b = torch.rand(2, 4, 3, *size, dtype=torch.float64)
    once = low_pass(a, 6.5)
    assert_close(low_pass(once, 6.5), once)
    assert_close(low_pass(2 * a - 3 * b, 6.5), 2 * once - 3 * low_pass(b, 6.5))
    assert_close(once.mean(dim=(2, 3)), a.mean(dim=(2, 3)))
    assert_close(once[2:3, 1:2], low_pass(a[2:3, 1:2], 6.5))
    assert (once - a).abs().max() > 0.1
    assert once.shape == a.shape
    assert once.dtype == a.dtype


def test_results_overshoot_beside_an_edge_and_the_fast_form_cuts_them():
    edge = torch.zeros(1, 3, 64, 64)
    edge[..., 32:] = 1
    smooth = low_pass(edge, 8)
    assert smooth.dtype == torch.float32
    assert -0.2 < smooth.min() < -0.05
    assert 1.05 < smooth.max() < 1.2
    torch.testing.assert_close(fast_low_pass(edge, 8), smooth.clamp(0, 1), rtol=0, atol=1e-6)


ALL = ["identity", "mirror", "blur", "gaussian 0.4", "gaussian 1.7", "low_pass 0.5", "low_pass 4.2"]
ALL += ["low_pass 40", "crop 0.5 centre", "crop 0.63 centre", *(f"crop 0.9 {place}" for place in PLACES)]
ALL += ["mirror then crop 0.7 top-left", "blur then low_pass 4.2 then gaussian 0.4 then mirror"]


@sizes
@pytest.mark.parametrize("text", ALL)
def test_the_two_forms_are_one(text, size):
    x = torch.rand(3, 3, *size, dtype=torch.float64)
    assert_close(made(text, x), transformed(x, text).clamp(0, 1))
    assert (made(text, x) - x).abs().max() > 0.01 or text in ("identity", "low_pass 40")


@pytest.mark.parametrize("text", ALL)
def test_each_has_a_gradient(text):
    x = (0.2 + 0.6 * torch.rand(1, 1, 10, 12, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: transformed(p, text), x)


def test_what_each_does_to_a_picture():
    x = torch.zeros(1, 1, 20, 20)
    x[..., 4, 3] = 0.9
    assert made("mirror", x)[..., 4, 16] == pytest.approx(0.9)
    assert made("blur", x)[..., 3:6, 2:5].allclose(torch.tensor(0.1))
    soft = made("gaussian 0.8", x)
    assert soft.sum() == pytest.approx(0.9, rel=1e-5)
    assert (soft[..., 4, 4] / soft[..., 4, 3]).item() == pytest.approx(math.exp(-0.5 / 0.8**2), rel=1e-5)
    assert made("mirror then crop 0.5 top-left", x).sum() == 0  # the bright pixel is on the other side then
    assert made("crop 0.5 top-left then mirror", x).sum() > 1
    corners = torch.arange(400.0).reshape(1, 1, 20, 20) / 400
    for place, (row, column) in {"top-left": (0, 0), "top-right": (0, -1), "bottom-left": (-1, 0)}.items():
        assert made(f"crop 0.9 {place}", corners)[..., row, column] == corners[..., row, column]
        opposite = made(f"crop 0.9 {place}", corners)[..., -1 - row, -1 - column]
        assert opposite == pytest.approx(
            corners[..., -1 - row + (2 if row else -2), -1 - column].item(), abs=0.006
        )


def test_a_transform_is_read_as_it_is_written():
    for text in ALL:
        assert written(parse_chain(text)) == text.replace("low_pass 40", "low_pass 40.0")
    assert {step.name for text in ALL for step in parse_chain(text)} == set(TRANSFORMS)
    assert written(parse_chain("crop .9  top-left then  mirror")) == "crop 0.9 top-left then mirror"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a transform of identity, mirror, .*, got ''"),
        ("sharpen", "expected a transform of identity, mirror, .*, got 'sharpen'"),
        ("mirror 2", "expected nothing after mirror, got 'mirror 2'"),
        ("gaussian", "expected gaussian with a standard deviation above 0 .*, got 'gaussian'"),
        ("gaussian much", "expected gaussian with a standard deviation above 0 .*, got 'gaussian much'"),
        ("gaussian 0", "expected gaussian with a standard deviation above 0 .*, got 'gaussian 0'"),
        ("gaussian nan", "expected gaussian with a standard deviation above 0 .*, got 'gaussian nan'"),
        ("low_pass -1", "expected low_pass with a positive radius .*, got 'low_pass -1'"),
        ("low_pass inf", "expected low_pass with a positive radius .*, got 'low_pass inf'"),
        ("crop 0.9", "expected crop with a place of centre, top-left, .*, got 'crop 0.9'"),
        ("crop 1 centre", "expected crop with a share of each side .*, got 'crop 1 centre'"),
        ("crop 0.9 left", "expected crop with a place of centre, top-left, .*, got 'crop 0.9 left'"),
        ("crop 0.9 centre 2", "expected nothing after crop, got 'crop 0.9 centre 2'"),
        (3, "expected a transform as a string, got 3"),
        ("mirror then ", "expected a transform of identity, mirror, .*, got ''"),
        ("mirror and blur", "expected nothing after mirror, got 'mirror and blur'"),
        ("mirror then identity", "expected identity by itself, got 'mirror then identity'"),
    ],
)
def test_what_is_no_transform_is_named(text, said):
    with pytest.raises(InputError, match=said):
        parse_chain(text)


def test_a_crop_that_cuts_nothing_of_a_small_picture_is_refused():
    with pytest.raises(InputError, match=r"cuts at least one pixel of \(8, 8\), got 'crop 0.95 centre'"):
        made("crop 0.95 centre", torch.rand(1, 3, 8, 8))
