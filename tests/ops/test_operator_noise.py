from __future__ import annotations

import numpy as np
import pytest
import torch
from forms import FORMS, Form, assert_close, assert_same, call
from torch import Tensor

from clipfast.inputs.philox import l2_noise, linf_noise
from clipfast.ops import perturb

EPS = 4 / 255
SEEDS = [0, 1, 1 << 40, -1, -(2**63), 2**63 - 1, 0x123456789ABCDEF0, -(2**32), 0xFFFFFFFF]
IMAGES = [0, 2**32 - 1, 7, 2**31, 2**31 - 1, 0, 6, 1, 2**32 - 2]


def draw(
    form: Form, seeds, images, shape: tuple[int, int, int], *, norm: str = "linf", eps: float = EPS
) -> Tensor:
    """The noise alone: no pixel is near a bound."""
    pixels = torch.full((len(seeds), *shape), 0.5)
    keys = {"seeds": torch.tensor(seeds), "images": torch.tensor(images)}
    return call(perturb, form, pixels, **keys, eps=eps, norm=norm)[1]


def define(kind, seeds, images, shape: tuple[int, int, int], eps: float = EPS) -> Tensor:
    seeds, images = np.array(seeds, np.int64).view(np.uint64), np.array(images, np.int64).astype(np.uint32)
    return torch.from_numpy(kind(seeds, images, shape, eps))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 5, 7), (3, 2, 2), (3, 1, 2), (3, 13, 31)])
def test_noise_is_what_clipfast_noise_draws(form, shape):
    assert_same(draw(form, SEEDS, IMAGES, shape), define(linf_noise, SEEDS, IMAGES, shape))
    ours, expected = (
        draw(form, SEEDS, IMAGES, shape, norm="l2", eps=0.4), define(l2_noise, SEEDS, IMAGES, shape, 0.4)
    )  # fmt: skip
    assert_close(ours, expected, atol=1e-6 * 0.4)
    assert (expected.flatten(1).norm(dim=1) > 1e-3).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("eps", [0.0, 1 / 255, 8 / 255, 0.3, 1 / 3])
def test_a_budget_is_rounded_once(form, eps):
    assert_same(
        draw(form, SEEDS, IMAGES, (3, 5, 7), eps=eps), define(linf_noise, SEEDS, IMAGES, (3, 5, 7), eps)
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_draw_depends_on_nothing_but_its_key_and_image(form, norm):
    shape = (3, 5, 7)
    together = draw(form, SEEDS, IMAGES, shape, norm=norm)
    for some in ([4], [8, 1], [3, 2, 1, 0, 8, 7]):
        drawn = draw(form, [SEEDS[i] for i in some], [IMAGES[i] for i in some], shape, norm=norm)
        assert_close(drawn, together[some], atol=0 if norm == "linf" else 1e-6 * EPS)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_draw_is_another_s(form, norm):
    seeds = [0, 0, 0, 1, 1, 1, 1 << 32, 1 << 32, -1, -1, 2**32 - 1, 5]
    images = [0, 1, 2**32 - 1, 0, 1, 2**32 - 1, 0, 1, 0, 2**32 - 1, 0, 5]
    noise = draw(form, seeds, images, (3, 8, 9), norm=norm).flatten(1)
    values = noise / noise.norm(dim=1, keepdim=True)
    # By value and in order: no word of one draw stands at its place in another, and 24 bits seldom repeat.
    assert all((values[i] != values[j]).float().mean() > 0.99 for i in range(12) for j in range(i))
    assert len(noise.unique()) > 0.999 * noise.numel()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("patch", [(5, 7), (15, 1)])
def test_a_layout_changes_no_draw(form, norm, patch):
    pixels = torch.full((9, 3, 15, 14), 0.5)
    options = {"seeds": torch.tensor(SEEDS), "images": torch.tensor(IMAGES), "eps": EPS, "norm": norm}
    (_, d), (_, patches) = (call(perturb, form, pixels, **options, patch=p) for p in (None, patch))
    for i, j in np.ndindex(15 // patch[0], 14 // patch[1]):
        cut = d[:, :, i * patch[0] :, j * patch[1] :][:, :, : patch[0], : patch[1]]
        expected = patches[:, i * (14 // patch[1]) + j]
        assert_close(cut.flatten(1), expected, atol=0 if norm == "linf" else 1e-6 * EPS)
