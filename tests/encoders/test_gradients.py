from __future__ import annotations

import pytest
import torch
from agreement import by_autograd
from towers import build, make_tower, smooth

from clipfast.encoders import TracedEncoder, VitEncoder, make_encoder
from clipfast.encoders.gradients import embed_with_gradient
from clipfast.models.tower import ImageTower


@pytest.mark.parametrize("kind", ["explicit", "traced"])
def test_is_the_tower_s_own_gradient(kind):
    tower = make_tower() if kind == "explicit" else ImageTower(build(layers=(1, 1, 1, 1), width=8))
    encoder = make_encoder(tower)
    assert isinstance(encoder, VitEncoder if kind == "explicit" else TracedEncoder)
    x = smooth(3, tower.image_size)
    cotangent = torch.randn(3, tower(x).shape[1])
    expected, expected_gradient = by_autograd(tower, x, cotangent)
    leaf = x.clone().requires_grad_()
    embedding = embed_with_gradient(encoder, leaf)
    torch.testing.assert_close(embedding.detach(), expected, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):  # which an attacker may have on
        assert torch.equal(embed_with_gradient(encoder, leaf), embedding)
        (gradient,) = torch.autograd.grad(embedding, leaf, cotangent, retain_graph=True)
    scale = expected_gradient.abs().max().item()
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-5 * scale)
    (gradient,) = torch.autograd.grad(embedding.square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_nothing_is_kept_without_gradients():
    tower = make_tower()
    with torch.no_grad():
        embedding = embed_with_gradient(make_encoder(tower), smooth(2, tower.image_size))
    assert not embedding.requires_grad
