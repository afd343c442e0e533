from __future__ import annotations

import pytest
import torch
from agreement import assert_agrees, by_autograd, draw
from towers import VITS, doubled, make_tower, smooth

from clipfast.defence.precision import available, dtype_of
from clipfast.encoders.attention import PROBABILITIES_UP_TO
from clipfast.encoders.vit import VitEncoder
from clipfast.reference_stages import drift_of

LOW = [name for name in ("bf16", "fp16") if name in available(torch.device("cpu"))]


@pytest.mark.parametrize("variant", VITS)
def test_float64_is_autograd_s(variant):
    tower = doubled(make_tower(variant))
    assert VitEncoder.covers(tower.model.visual)
    encoder = VitEncoder(tower.model.visual, dtype=torch.float64, pack=False)
    assert_agrees(encoder, tower, 4, tolerance=1e-12)


@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize("variant", VITS)
def test_low_precision_keeps_the_gradient_s_direction(variant, precision):
    tower = make_tower(variant, gain=8.0)
    x = smooth(3, tower.image_size)
    d = (2 * torch.rand_like(x) - 1) * 4 / 255
    base_embedding = tower(x)
    cotangent = torch.nn.functional.normalize(tower(x + d) - base_embedding, dim=1)
    _, expected = by_autograd(tower, x + d, cotangent)
    encoder = VitEncoder(tower.model.visual, dtype=dtype_of(precision))
    base, layout = encoder.project(encoder.to_layout(x)), encoder.to_layout(d)
    embedding, saved = encoder.forward(base, layout)
    assert embedding.dtype == torch.float32
    gradient = encoder.from_layout(encoder.input_gradient(saved, cotangent)).float()
    cosine = torch.cosine_similarity(gradient.flatten(1), expected.flatten(1))
    assert cosine.min() > 0.99
    # One part in 500 of an embedding is what bfloat16's products leave uncertain, in a drift of 0.04 to 0.2.
    tau, expected_tau = (drift_of(f, base_embedding) for f in (embedding, tower(x + d)))
    torch.testing.assert_close(tau, expected_tau, rtol=0, atol={"bf16": 5e-3, "fp16": 1e-3}[precision])
    assert (gradient == 0).float().mean() < 1e-3  # nothing underflowed to sign(0)


def test_layout_is_the_convolution_s_and_back():
    tower = make_tower()
    x, _, _ = draw(tower, 3)
    encoder = VitEncoder(tower.model.visual)
    layout = encoder.to_layout(x)
    assert layout.shape == (3, 16, 3 * 8 * 8)
    torch.testing.assert_close(layout[1, 5].reshape(3, 8, 8), x[1, :, 8:16, 8:16], rtol=0, atol=0)
    torch.testing.assert_close(encoder.from_layout(layout), x, rtol=0, atol=0)


@pytest.mark.parametrize("variant", ["class token", "145 tokens"])
def test_saves_probabilities_for_few_tokens_only(variant):
    tower = make_tower(variant)
    encoder = VitEncoder(tower.model.visual)
    x, d, _ = draw(tower, 3)
    base = encoder.project(encoder.to_layout(x))
    tokens = base.shape[1] + 1
    _, saved = encoder.forward(base, encoder.to_layout(d))
    assert all(len(tensor) == len(x) for tensor in saved)
    squares = [tensor for tensor in saved if tensor.shape[-2:] == (tokens, tokens)]
    assert bool(squares) == (tokens <= PROBABILITIES_UP_TO)


def test_covers_no_tower_that_it_does_not_know():
    for change in (
        lambda v: setattr(v, "pool_type", "none"),
        lambda v: setattr(v, "attn_pool", torch.nn.Identity()),
        lambda v: setattr(v, "proj", None),
        lambda v: setattr(v, "grid_size", (3, 4)),
        lambda v: setattr(v.transformer.resblocks[1].mlp, "gelu", torch.nn.ReLU()),
        lambda v: setattr(v.transformer.resblocks[1], "ls_1", torch.nn.Dropout(0.5)),
        lambda v: setattr(v.transformer.resblocks[1].attn, "in_proj_bias", None),
        lambda v: setattr(v, "ln_post", torch.nn.Identity()),
        lambda v: setattr(
            v.transformer.resblocks[1].mlp, "c_fc", type("Lora", (torch.nn.Linear,), {})(64, 256)
        ),
        lambda v: v.conv1.register_forward_hook(lambda *_: None),
        lambda v: v.train(),
        lambda v: v.half(),
    ):
        visual = make_tower().model.visual
        assert VitEncoder.covers(visual)
        change(visual)
        assert not VitEncoder.covers(visual)
