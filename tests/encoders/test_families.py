"""Every family of open_clip's image towers, tiny: the form that it takes, and its agreement with autograd."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable

import open_clip
import pytest
import torch
from agreement import assert_agrees, assert_close, by_autograd, draw
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from towers import EXPLICIT, RESNET, TRACED, VIT, build

from clipfast import encoders
from clipfast.encoders import AutogradEncoder, Encoder, TracedEncoder, VitEncoder, make_encoder, traced
from clipfast.errors import InputError
from clipfast.models.tower import ImageTower


def with_head(function: Callable[[Tensor], Tensor]) -> ImageTower:
    model = build(**VIT | {"layers": 1})
    model.encode_image = lambda image, normalize: function(model.visual(image))  # noqa: ARG005
    return ImageTower(model)


@functools.cache
def of_family(name: str) -> tuple[ImageTower, Encoder]:
    """A frozen tower and its encoder, as a trace takes seconds."""
    tower = ImageTower((EXPLICIT | TRACED)[name]()).requires_grad_(False)
    return tower, make_encoder(tower)


@pytest.mark.parametrize(
    ("form", "name"), [*(("explicit", name) for name in EXPLICIT), *(("traced", name) for name in TRACED)]
)
def test_family(form: str, name: str) -> None:
    tower, encoder = of_family(name)
    print(f"{name}: {encoder.form}:", end=" ")
    assert encoder.form == form
    for n in (1, 2, 3, 8):
        assert_agrees(encoder, tower, n, tolerance=1e-5)


class _Listed:
    """An explicit encoder of ResNets."""

    def __init__(self, visual: nn.Module, *, dtype: torch.dtype, pack: bool, tune: bool | str) -> None:
        self.made_of = (visual, dtype, pack, tune)

    @staticmethod
    def covers(visual: nn.Module) -> bool:
        return isinstance(visual, open_clip.modified_resnet.ModifiedResNet)


def test_an_explicit_encoder_is_taken_for_the_towers_that_it_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "_EXPLICIT", (*encoders._EXPLICIT, _Listed))
    covered, other, altered = (ImageTower(build(**options)) for options in (RESNET, VIT, RESNET))
    taken = make_encoder(covered, dtype=torch.bfloat16, pack=False, tune="plain")
    assert isinstance(taken, _Listed)
    assert taken.made_of == (covered.model.visual, torch.bfloat16, False, "plain")
    assert isinstance(make_encoder(other), VitEncoder)
    altered.model.encode_image = covered.model.encode_image
    assert make_encoder(altered).form == "traced"


@pytest.mark.parametrize("name", ["resnet", "timm siglip"])
def test_traced_is_exact_in_double(name: str) -> None:
    tower = ImageTower(TRACED[name]().double()).double()
    assert_agrees(TracedEncoder(tower), tower, 4, tolerance=1e-12)


@pytest.mark.parametrize("name", ["vit class token", "vit layer scale", "vit QuickGELU"])
def test_an_explicit_tower_can_be_traced(name: str) -> None:
    tower = ImageTower(EXPLICIT[name]())
    assert_agrees(TracedEncoder(tower), tower, 4, tolerance=1e-5)


def test_a_batch_that_is_not_the_first_axis_is_moved_there() -> None:
    def mixed(embedding: Tensor) -> Tensor:
        turned = embedding.t().contiguous() * 2
        return turned.sin().roll(3, 0).mul(turned).t()

    tower = with_head(mixed)
    assert_agrees(TracedEncoder(tower), tower, 4, tolerance=1e-5)


def test_autograd_form() -> None:
    tower = ImageTower(TRACED["resnet"]())
    assert_agrees(AutogradEncoder(tower), tower, 3, tolerance=1e-5)


@pytest.mark.parametrize("name", ["resnet", "coca attentional pool", "timm siglip", "timm swin"])
def test_traced_costs_what_autograd_costs(name: str) -> None:
    """One forward pass, and one backward pass to the pixels alone."""
    tower, encoder = of_family(name)
    x, d, cotangent = draw(tower, 3)

    def flops(run: Callable[[], object]) -> int:
        # The counter knows nothing of fused attention.
        with FlopCounterMode(display=False) as counter, traced._plain_attention():
            run()
        return counter.get_total_flops()

    saved = encoder.forward(x, d)[1]
    forward = flops(lambda: tower((x + d).requires_grad_()))
    both = flops(lambda: tower((x + d).requires_grad_()).backward(cotangent))
    assert forward > 0
    assert flops(lambda: encoder.embed(x, d)) == forward
    assert flops(lambda: encoder.forward(x, d)) == forward
    assert flops(lambda: encoder.input_gradient(saved, cotangent)) == both - forward
    for half in (encoder._embed, encoder._forward, encoder._backward):
        assert all(node.users for node in half.graph.nodes if node.op != "output")


def test_frozen_batch_norm_saves_no_input() -> None:
    """Of a convolution, its normalisation and its ReLU, the ReLU's result alone is saved."""
    tower, encoder = of_family("resnet")
    x, d, _ = draw(tower, 2)
    saved = encoder.forward(x, d)[1]
    maps = [tensor for tensor in saved if tensor.dim() == 4 and tensor.shape[2] == tensor.shape[3]]
    signed = [tuple(tensor.shape[1:]) for tensor in maps if (tensor < 0).any()]
    assert len(maps) > 10
    assert signed == [(3, 64, 64)]  # the normalised pixels


def test_traced_shares_the_weights() -> None:
    tower, encoder = of_family("timm siglip")
    own = {tensor.data_ptr() for tensor in (*tower.parameters(), *tower.buffers())}
    for half in (encoder._forward, encoder._backward):
        large = [tensor for tensor in (*half.parameters(), *half.buffers()) if tensor.numel() > 1]
        assert large
        assert all(tensor.data_ptr() in own for tensor in large)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("kind", [TracedEncoder, AutogradEncoder])
def test_any_grad_mode(kind: type[TracedEncoder | AutogradEncoder], mode: Callable) -> None:
    tower = with_head(lambda embedding: 3 * embedding)
    x, d, cotangent = draw(tower, 2)
    expected = by_autograd(tower, x + d, cotangent)[1]
    with mode():
        encoder = kind(tower)
        y, e = x * 1, d * 1  # tensors of that mode
        embedding, saved = encoder.forward(y, e)
        gradient = encoder.input_gradient(saved, cotangent * 1)
    assert not any(tensor.requires_grad for tensor in (embedding, gradient, *saved))
    assert_close(gradient, expected, 1e-5, "gradient")
    assert all(parameter.grad is None and parameter.requires_grad for parameter in tower.parameters())
    assert torch.backends.mha.get_fastpath_enabled()


class _Gated(nn.Module):
    """Gradients and embeddings of the images whose embedding passes a threshold."""

    def __init__(self, encoder: TracedEncoder) -> None:
        super().__init__()
        self.halves = nn.ModuleList([encoder._embed, encoder._forward, encoder._backward])
        self.encoder = encoder

    def forward(self, x: Tensor, d: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
        embedding, saved = self.encoder.forward(x, d)
        rows = (embedding[:, 0] > threshold).nonzero().flatten()
        held = tuple(tensor.index_select(0, rows) for tensor in saved)
        gradient = self.encoder.input_gradient(held, embedding.index_select(0, rows))
        return gradient, self.encoder.embed(x.index_select(0, rows), gradient)


@pytest.mark.parametrize("name", ["resnet", "timm siglip"])
def test_traced_exports_for_any_number_of_images(name: str) -> None:
    tower, encoder = of_family(name)
    gated = _Gated(encoder)
    x, d, _ = draw(tower, 4)
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    exported = torch.export.export(
        gated, (x, d, torch.tensor(0.0)), dynamic_shapes=({**batch}, {**batch}, None), strict=False
    ).module()
    x, d, _ = draw(tower, 3)
    values = gated.encoder.embed(x, d)[:, 0].sort().values
    for threshold, rows in ((values[0] - 1, 3), (values[:2].mean(), 2), (values[-1] + 1, 0)):
        gradient, embedding = exported(x, d, threshold)
        assert gradient.shape == (rows, *x.shape[1:])
        assert embedding.shape == (rows, 24)
        if rows:
            expected = gated(x, d, threshold)
            assert_close(gradient, expected[0], 1e-5, "gradient")
            assert_close(embedding, expected[1], 1e-5, "embedding")


def test_any_strides() -> None:
    tower, encoder = of_family("resnet")
    x, d, cotangent = draw(tower, 2)
    expected = by_autograd(tower, x + d, cotangent)[1]
    x, d = (t.to(memory_format=torch.channels_last) for t in (x, d))
    _, saved = encoder.forward(x, d)
    assert_close(encoder.input_gradient(saved, cotangent.t().clone().t()), expected, 1e-5, "gradient")


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        pytest.param(lambda e: e - e.mean(dim=0), "the gradient of some rows", id="rows mix"),
        pytest.param(lambda e: e * e.mean(dim=0), "0 axes that depend on the batch size", id="saved mix"),
        pytest.param(lambda e: e * (1 + 1 / len(e)), "argument depends on the batch size", id="a number"),
        pytest.param(lambda e: e + e if len(e) > 5 else e, "operations depend", id="by batch size"),
        pytest.param(lambda e: e * 2 if e.sum() > 0 else e, "DataDependent", id="control flow"),
        pytest.param(lambda e: torch.from_numpy(e.detach().numpy()) * e, "RuntimeError", id="out of PyTorch"),
        pytest.param(lambda e: e + torch.rand_like(e), "embedding", id="random"),
    ],
)
def test_what_cannot_be_traced_is_left_to_autograd(
    function: Callable[[Tensor], Tensor], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    tower = with_head(function)
    with pytest.raises(traced.TracingError, match=reason):
        TracedEncoder(tower)
    with caplog.at_level(logging.INFO, logger="clipfast"):
        assert make_encoder(tower).form == "autograd"
    (record,) = (record for record in caplog.records if record.name.startswith("clipfast"))
    assert record.levelno == logging.INFO
    assert "VisionTransformer is not traced" in record.getMessage()
    assert torch.backends.mha.get_fastpath_enabled()


def test_training_mode_is_not_traced() -> None:
    tower = ImageTower(TRACED["resnet"]())
    tower.model.visual.bn1.train()
    with pytest.raises(traced.TracingError, match="eval mode"):
        TracedEncoder(tower)
    assert int(tower.model.visual.bn1.num_batches_tracked) == 0


def test_half_precision_weights_are_not_traced() -> None:
    tower = ImageTower(TRACED["resnet"]().half())
    with pytest.raises(traced.TracingError, match=r"expected float32 or float64 weights, got torch\.float16"):
        TracedEncoder(tower)


def test_a_wrong_trace_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rsqrt = torch.rsqrt
    monkeypatch.setattr(traced.torch, "rsqrt", lambda x: 1.001 * rsqrt(x))
    with pytest.raises(traced.TracingError, match="the gradient of the trace is off by"):
        TracedEncoder(ImageTower(TRACED["resnet"]()))


@pytest.mark.parametrize(("value", "reason"), [(math.nan, "embedding .* off by nan"), (0.0, "is zero")])
def test_a_tower_that_leaves_nothing_to_check_is_not_traced(value: float, reason: str) -> None:
    model = TRACED["resnet"]()
    nn.init.constant_(model.visual.conv1.weight, value)
    with pytest.raises(traced.TracingError, match=reason):
        TracedEncoder(ImageTower(model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_needs_the_explicit_form(dtype: torch.dtype) -> None:
    assert make_encoder(ImageTower(EXPLICIT["vit class token"]()), dtype=dtype).form == "explicit"
    for name, shown in (("resnet", "ModifiedResNet"), ("timm convnext", "ConvNeXt")):
        with pytest.raises(InputError, match=f"expected precision fp32 for a {shown} image tower"):
            make_encoder(ImageTower(TRACED[name]()), dtype=dtype)


class _Doubled(open_clip.CLIP):
    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        return 2 * super().encode_image(image, normalize)


def test_a_model_that_changes_the_embedding_is_traced() -> None:
    tower = ImageTower(build(_Doubled, **VIT))
    encoder = make_encoder(tower)
    assert encoder.form == "traced"
    assert_agrees(encoder, tower, 2, tolerance=1e-5)
    tower = with_head(lambda embedding: 3 * embedding)
    encoder = make_encoder(tower)
    assert encoder.form == "traced"
    assert_agrees(encoder, tower, 2, tolerance=1e-5)
