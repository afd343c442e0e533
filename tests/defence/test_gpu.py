from __future__ import annotations

import pytest
import torch
from test_engine import assert_same_from_threads, assert_tiers, batch, gated
from towers import make_tower

from clipfast import CounterattackConfig, InputError
from clipfast.defence.engine import Engine
from clipfast.defence.precision import available, dtype_of
from clipfast.encoders import CompiledEncoder, make_encoder
from clipfast.inputs.noise import Noise
from clipfast.reference import counterattack

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.fixture(autouse=True)
def _exact_convolutions(monkeypatch):
    # The reference's patch projection is a convolution, which CUDA rounds to 10 bits by default.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def on_gpu(mix: str, precision: str, *, compile: bool):
    tower = make_tower(gain=8.0)
    x, noise, config, tau = batch(tower, 7)
    config = gated(config, tau, mix)
    tower, x, noise = tower.cuda(), x.cuda(), noise.cuda()
    encoder = make_encoder(tower, dtype=dtype_of(precision))
    encoder = CompiledEncoder(encoder) if compile else encoder
    engine = Engine(encoder, config, image_size=tower.image_size, device=x.device)
    engine.warmup([7])
    return tower, x, noise, engine


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("mix", ["none", "some", "all"])
def test_engine_is_the_reference(mix, compile):
    tower, x, noise, engine = on_gpu(mix, "fp32", compile=compile)
    for n in (7, 1, 4):
        result = engine.run(x[:n], Noise(noise[:n]))
        assert_tiers(result, counterattack(tower, x[:n], noise[:n], engine.config), engine.config)


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_reaches_what_float32_reaches(precision, compile):
    assert precision in available(torch.device("cuda"))
    tower, x, noise, engine = on_gpu("all", precision, compile=compile)
    expected = counterattack(tower, x, noise, engine.config)
    result = engine.run(x, Noise(noise))
    reached, wanted = (
        (tower(x + delta) - expected.clean_embedding).norm(dim=1) for delta in (result.delta, expected.delta)
    )
    assert (reached / wanted).min() > 0.95
    torch.testing.assert_close(result.drift, expected.drift, rtol=0, atol=5e-3)


def test_graphs_are_safe_across_threads_and_keep_their_answers():
    _, x, noise, engine = on_gpu("some", "fp32", compile=True)
    first = engine.run(x, Noise(noise))
    kept = first.embedding.clone()
    engine.run(x.flip(0), Noise(noise.flip(0)))
    assert torch.equal(first.embedding, kept)
    assert_same_from_threads(engine, x, noise, first)


def test_a_fresh_gpu_classifier_draws_noise_there(classifier):
    classifier = classifier.cuda()
    x = torch.rand(3, 3, 32, 32)
    prediction = classifier.predict(x, with_delta=True)
    assert prediction.logits.is_cuda
    assert prediction.delta.abs().max() <= CounterattackConfig().eps + 1e-6


def test_a_seed_starts_alike_on_every_device(classifier):
    x = torch.rand(3, 3, 32, 32)
    on_cpu = classifier.predict(x, seed=7, with_delta=True)
    on_gpu = classifier.cuda().predict(x, seed=7, with_delta=True)
    passed = ~(on_cpu.countered | on_gpu.countered.cpu())
    assert passed.any()
    assert torch.equal(on_cpu.delta[passed], on_gpu.delta.cpu()[passed])


def test_pixels_out_of_range_on_a_gpu_are_found_where_the_gate_is_read(classifier):
    classifier = classifier.cuda()
    x = torch.rand(3, 3, 32, 32, device="cuda")
    for value, message in (
        (1.5, "slightly out of range|pixels in"),
        (torch.nan, "NaN or infinity in image 1"),
    ):
        bad = x.clone()
        bad[1, 2, 3, 4] = value
        with pytest.raises(InputError, match=message):
            classifier.predict(bad)
