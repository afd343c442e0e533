from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from toys import toy_logits, toy_pixels

from clipfast import InputError
from clipfast.attacks import Attack, make, rounded, to_bytes

EPS = [0.5 / 255, 1 / 255, 1.7 / 255, 4 / 255]


@pytest.mark.parametrize("eps", EPS)
@pytest.mark.parametrize("name", ["pgd-10", "bpda", "targeted", "apgd-ce", "square"])
def test_budgets_hold_in_float_and_in_8_bits(name, eps):
    logits = toy_logits()
    x = (toy_pixels(12) * 255).round() / 255
    x[:, :, 0], x[:, :, 1] = 0, 1  # where a budget meets the bounds
    attacked = make(name).run(logits, x, logits(x).argmax(dim=1), eps=eps, seed=3).pixels
    assert attacked.dtype == torch.float32
    assert (attacked - x).abs().max() > 0.4 * eps
    for pixels in (attacked, rounded(attacked, x, eps)):
        assert (pixels - x).abs().max() <= eps + 1e-6
        assert pixels.min() >= 0
        assert pixels.max() <= 1
    whole = to_bytes(attacked, x, eps)
    assert whole.dtype == torch.uint8
    assert (whole.int() - (x * 255).round().int()).abs().max() == int(eps * 255 + 1e-9)


def test_8_bits_take_the_nearest_level_that_is_allowed():
    x = torch.tensor([10.0, 10.0, 10.4, 0.0, 255.0, 10.0])[:, None, None, None] / 255
    attacked = torch.tensor([11.4, 11.6, 12.0, 0.4, 254.4, 8.5])[:, None, None, None] / 255
    assert to_bytes(attacked, x, 1.5 / 255).flatten().tolist() == [11, 11, 11, 0, 254, 9]
    # A budget that is whole is whole although float32 cannot hold it.
    assert to_bytes(x + 3 / 255, x, 3 / 255).flatten().tolist() == [13, 13, 13, 3, 255, 13]


def test_whole_budgets_are_whole_at_every_level_and_others_are_not_rounded_up():
    levels = torch.arange(256.0)
    x = (levels / 255)[:, None, None, None]
    for size in range(1, 9):
        for eps, reach in ((size / 255, size), ((size + 0.995) / 255, size)):
            for way in (-1, 1):
                moved = (x + way).clamp(0, 1)
                wanted = (levels + way * reach).clamp(0, 255)
                assert to_bytes(moved, x, eps).flatten().tolist() == wanted.tolist()


@dataclass(frozen=True, kw_only=True)
class Careless(Attack):
    """An attack that knows no budget."""

    ticks = 0

    def _run(self, system, pixels, labels, eps, tick, batch_size):  # noqa: ARG002
        return pixels + 1.5, labels > 9


def test_no_attack_s_own_pixels_are_trusted():
    x = toy_pixels(3)
    attacked = Careless(name="careless").run(
        toy_logits(), x, torch.zeros(3, dtype=torch.int64), eps=0.1, seed=0
    )
    assert torch.equal(attacked.pixels, torch.minimum(x + 0.1, torch.ones(())))


def test_bad_input_is_named():
    x = torch.full((2, 3, 4, 4), 0.5)
    with pytest.raises(InputError, match=r"one shape, got \[2, 3, 4, 4\] and \[1, 3, 4, 4\]"):
        to_bytes(x, x[:1], 0.1)
    with pytest.raises(InputError, match="above 0 and at most 1, got 2"):
        to_bytes(x, x, 2)
    between = x.clone()
    between[1, 0, 0, 0] = 10.5 / 255
    between[0] = 10 / 255
    with pytest.raises(InputError, match=r"grey level within eps = 0\.001 of every pixel, image 1 has none"):
        to_bytes(between, between, 0.001)
