from __future__ import annotations

import ast
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import split_threshold
from lab import DEPTHS, STAGES, restless, with_one_early
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from towers import TRACED, VIT, build, make_tower, smooth

import clipfast
from clipfast import CounterattackConfig
from clipfast.defence.cuda_graphs import Graphs
from clipfast.defence.engine import Engine
from clipfast.defence.passes import engine_passes
from clipfast.defence.precision import available, dtype_of
from clipfast.defence.rows import leaves
from clipfast.defence.schedule import probe
from clipfast.encoders import CompiledEncoder, make_encoder
from clipfast.encoders.base import PixelEncoder, Saved
from clipfast.encoders.vit import VitEncoder
from clipfast.errors import OutOfMemoryError
from clipfast.inputs import draws
from clipfast.inputs.noise import Noise
from clipfast.models.tower import ImageTower
from clipfast.reference import Counterattacked, counterattack
from clipfast.reference_stages import gate_measure, into_bounds

CPU = torch.device("cpu")
MOMENTUM, LOW_PASS = {"momentum": 0.9}, {"gate": "agreement", "transform": "low_pass 1.5"}
LOW = [name for name in ("bf16", "fp16") if name in available(CPU)]


class Counting(VitEncoder):
    """Counts passes, in images."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.order: list[str] = []
        self.forwards = self.backwards = self.calls = 0

    def _count(self, n: int) -> None:
        self.forwards += n
        self.calls += 1

    def embed(self, base: Tensor, d: Tensor | None = None) -> Tensor:
        self.calls += 1
        return super().embed(base, d)

    def embed_until(self, base: Tensor, depth: int) -> Tensor:
        self.forwards += len(base) * depth / self.blocks
        return super().embed_until(base, depth)

    def embed_from(self, tokens: Tensor, depth: int) -> Tensor:
        self.forwards += len(tokens) * (1 - depth / self.blocks)
        return super().embed_from(tokens, depth)

    def forward(self, base: Tensor, d: Tensor) -> tuple[Tensor, Saved]:
        self._count(len(base))
        return super().forward(base, d)

    def forward_pair(self, base: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Saved]:
        self._count(2 * len(base))
        return super().forward_pair(base, d)

    def input_gradient(self, saved: Saved, cotangent: Tensor) -> Tensor:
        self.backwards += len(cotangent)
        return super().input_gradient(saved, cotangent)


def batch(tower, n: int = 6, **settings) -> tuple[Tensor, Tensor, CounterattackConfig, Tensor]:
    """Pixels, noise, settings, and the drift that the reference measures."""
    x = smooth(n, tower.image_size)
    config = CounterattackConfig(**settings)
    generator = torch.Generator().manual_seed(3)
    noise = (2 * torch.rand(x.shape, generator=generator) - 1) * config.eps
    if config.norm == "l2":
        noise = noise * (0.9 * config.eps / noise.flatten(1).norm(dim=1))[:, None, None, None]
    config = with_one_early(config, x, tower)
    tau = gate_measure(tower, x, into_bounds(noise, x), tower(x), config, tokens_of(tower, config))
    return x, noise, config, tau


def tokens_of(tower: ImageTower, config: CounterattackConfig) -> Callable[[Tensor], Tensor]:
    return partial(tower.gate_tokens, config=config)


def gated(config: CounterattackConfig, tau: Tensor, mix: str) -> CounterattackConfig:
    threshold = {"none": 0.0, "some": split_threshold(tau), "all": 1e9}[mix]
    return CounterattackConfig.from_json(
        config.to_json().replace('threshold": 0.2', f'threshold": {threshold}')
    )


def make_engine(tower, config, *, precision: str = "fp32", encoder=None, **options) -> Engine:
    encoder = encoder or make_encoder(tower, dtype=dtype_of(precision), tune=False)
    return Engine(encoder, config, image_size=tower.image_size, device=CPU, **options)


def assert_tiers(
    result: Counterattacked, expected: Counterattacked, config: CounterattackConfig, *, strayed: int = 0
) -> None:
    """The design's two tiers: tight before a sign, bounded after it, but for `strayed` images."""
    assert torch.equal(result.countered, expected.countered)
    # An embedding's relative error of 1e-6 is one of 2e-6 in tau, whatever tau is.
    torch.testing.assert_close(result.drift, expected.drift, rtol=1e-5, atol=2e-6)
    length = expected.embedding.norm(dim=1).amax().item()
    torch.testing.assert_close(
        result.clean_embedding, expected.clean_embedding, rtol=0, atol=1e-5 * length, equal_nan=True
    )
    passed = ~expected.countered
    torch.testing.assert_close(
        result.embedding[passed], expected.embedding[passed], rtol=0, atol=1e-5 * length
    )
    assert result.delta is not None
    off = ((result.delta - expected.delta).abs() > 1e-5).flatten(1).float().mean(dim=1)
    near = off <= 1e-3
    assert (~near).sum() <= strayed, off
    assert off[passed].eq(0).all()
    cosines = torch.cosine_similarity(result.embedding, expected.embedding, dim=1)
    assert cosines[near].min() > 1 - 1e-6
    size = result.delta.abs().amax() if config.norm == "linf" else result.delta.flatten(1).norm(dim=1).amax()
    assert size <= config.eps + 1e-6


@pytest.mark.parametrize("mix", ["none", "some", "all"])
@pytest.mark.parametrize("separate", [False, True], ids=["one tower", "drift tower"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("chunk", [2, 4, 8])
def test_engine_is_the_reference(chunk, norm, separate, mix):
    tower = make_tower(gain=8.0)
    drift_tower = make_tower("mean", seed=1, gain=8.0) if separate else None
    settings = {"norm": norm} if norm == "linf" else {"norm": norm, "eps": 0.5, "step_size": 0.2}
    x, noise, config, tau = batch(drift_tower or tower, **settings)
    config = gated(config, tau, mix)
    drift_encoder = None if drift_tower is None else make_encoder(drift_tower, tune=False)
    engine = make_engine(tower, config, drift_encoder=drift_encoder)
    engine.chunk = chunk
    result = engine.run(x, Noise(noise))
    expected = counterattack(tower, x, noise, config, drift_encode=drift_tower)
    assert int(expected.countered.sum()) == {"none": 0, "some": 3, "all": 6}[mix]
    if separate:  # the engine computes f(x) only where it is needed
        expected.clean_embedding[~expected.countered] = torch.nan
    assert_tiers(result, expected, config)


@pytest.mark.parametrize("family", ["resnet", "timm siglip", "timm convnext", "coca attentional pool"])
@pytest.mark.parametrize("mix", ["none", "some", "all"])
def test_engine_is_the_reference_on_traced_towers(mix, family):
    model = TRACED[family]()
    # Of a ResNet that hardly drifts the gradients are mostly rounding.
    tower = ImageTower(restless(model) if family == "resnet" else model).requires_grad_(False)
    x, noise, config, tau = batch(tower)
    config = gated(config, tau, mix)
    engine = make_engine(tower, config)
    assert engine.encoder.form == "traced"
    assert_tiers(engine.run(x, Noise(noise)), counterattack(tower, x, noise, config), config)


@pytest.mark.parametrize("mix", ["none", "some", "all"])
@pytest.mark.parametrize("separate", [False, True], ids=["one tower", "drift tower"])
@pytest.mark.parametrize("pass_through", ["noise", "clean"])
@pytest.mark.parametrize("options", [MOMENTUM | {"steps": 4}, LOW_PASS, MOMENTUM | LOW_PASS])
def test_options_are_the_reference(options, pass_through, separate, mix):
    tower = make_tower(gain=8.0)
    drift_tower = make_tower("mean", seed=1, gain=8.0) if separate else None
    x, noise, config, tau = batch(drift_tower or tower, 7, pass_through=pass_through, **options)
    config = gated(config, tau, mix)
    drift_encoder = None if drift_tower is None else make_encoder(drift_tower, tune=False)
    engine = make_engine(tower, config, drift_encoder=drift_encoder)
    engine.chunk = 3
    result = engine.run(x, Noise(noise))
    expected = counterattack(tower, x, noise, config, drift_encode=drift_tower)
    assert int(expected.countered.sum()) == {"none": 0, "some": 3, "all": 7}[mix]
    if separate and pass_through == "noise":
        expected.clean_embedding[~expected.countered] = torch.nan
    assert_tiers(result, expected, config)


@pytest.mark.parametrize("mix", ["none", "some", "all"])
@pytest.mark.parametrize("kind", STAGES)
def test_other_stages_are_the_reference_for_the_passes_that_they_are_said_to_cost(kind, mix):
    tower = make_tower(gain=8.0)
    x, noise, config, tau = batch(tower, **STAGES[kind])
    config = gated(config, tau, mix)
    encoder = Counting(tower.model.visual, tune=False)
    engine = make_engine(tower, config, encoder=encoder)
    encoder.forwards = encoder.backwards = 0  # the engine measures what an image holds
    engine.chunk = 4
    result = engine.run(x, Noise(noise))
    expected = counterattack(tower, x, noise, config)
    assert_tiers(result, expected, config)
    countered = int(expected.countered.sum())
    assert countered == {"none": 0, "some": 3, "all": 6}[mix]
    assert (encoder.forwards, encoder.backwards) == engine_passes(config, images=6, countered=countered)


@pytest.mark.parametrize("mix", ["none", "some", "all"])
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "padded"])
@pytest.mark.parametrize("kind", DEPTHS)
def test_gates_between_blocks_are_the_reference_for_a_share_of_a_pass(monkeypatch, kind, compile, mix):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    tower = make_tower(gain=8.0)
    x, noise, config, tau = batch(tower, **DEPTHS[kind])
    config = gated(config, tau, mix)
    encoder = Counting(tower.model.visual, tune=False)
    engine = make_engine(tower, config, encoder=CompiledEncoder(encoder) if compile else encoder)
    encoder.forwards = encoder.backwards = 0
    engine.chunk = 4
    result = engine.run(x, Noise(noise))
    expected = counterattack(tower, x, noise, config, tokens=tokens_of(tower, config))
    assert_tiers(result, expected, config)
    countered, early = int(expected.countered.sum()), int(config.passed_early(expected.drift).sum())
    assert countered == {"none": 0, "some": 3, "all": 6}[mix]
    assert early == (config.early_threshold is not None)
    if not compile:
        early *= mix != "all"
        said = engine_passes(config, images=6, countered=countered, early=early, blocks=tower.blocks)
        assert (encoder.forwards, encoder.backwards) == said


def test_the_low_pass_gate_may_have_its_noise_drawn():
    tower = make_tower(gain=8.0)
    x, _, config, tau = batch(tower, 7, **LOW_PASS)
    config = gated(config, tau, "some")
    engine = make_engine(tower, config)
    engine.chunk = 4
    draw = draws.seeded(5, 0, 7, CPU)
    result = engine.run(x, draw)
    assert_tiers(result, counterattack(tower, x, draws.draw_noise(draw, x.shape, config), config), config)


@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize("pass_through", ["noise", "clean"])
def test_steps_and_pass_through(steps, pass_through):
    tower = make_tower("QuickGELU", gain=8.0)
    x, noise, config, tau = batch(tower, steps=steps, pass_through=pass_through)
    config = gated(config, tau, "some")
    result, expected = make_engine(tower, config).run(x, Noise(noise)), counterattack(tower, x, noise, config)
    # Later steps amplify a flipped sign: after ten, the float32 reference itself is off its own float64 form
    # on one image in sixty. The float64 tests hold every image to 1e-9.
    assert_tiers(result, expected, config, strayed=int(steps == 10))


def test_an_image_s_answer_does_not_depend_on_its_batch():
    tower = make_tower(gain=8.0)
    x, noise, config, tau = batch(tower, 9)
    engine = make_engine(tower, gated(config, tau, "some"))
    together = engine.run(x, Noise(noise))
    for i in range(9):
        alone = engine.run(x[i : i + 1], Noise(noise[i : i + 1]))
        assert alone.countered[0] == together.countered[i]
        assert torch.cosine_similarity(alone.embedding[0], together.embedding[i], dim=0) > 1 - 1e-6


@pytest.mark.parametrize("mix", ["none", "some", "all"])
def test_passes_are_made_once(mix):
    tower = make_tower(gain=8.0)
    x, noise, config, tau = batch(tower)
    countered = {"none": 0, "some": 3, "all": 6}[mix]
    encoder = Counting(tower.model.visual, tune=False)
    engine = make_engine(tower, gated(config, tau, mix), encoder=encoder)
    encoder.forwards = encoder.backwards = 0
    engine.run(x, Noise(noise))
    assert (encoder.forwards, encoder.backwards) == (2 * 6 + 2 * countered, 2 * countered)


@pytest.mark.parametrize("mix", ["none", "some", "all"])
@pytest.mark.parametrize(("pass_through", "passing"), [("clean", 2), ("noise", 3)])
def test_the_low_pass_gate_takes_two_passes_and_its_answer_is_one_of_them(pass_through, passing, mix):
    tower = make_tower(gain=8.0)
    x, noise, config, tau = batch(tower, pass_through=pass_through, **LOW_PASS)
    countered = {"none": 0, "some": 3, "all": 6}[mix]
    encoder = Counting(tower.model.visual, tune=False)
    engine = make_engine(tower, gated(config, tau, mix), encoder=encoder)
    encoder.forwards = encoder.backwards = 0
    engine.run(x, Noise(noise))
    assert (encoder.forwards, encoder.backwards) == (passing * (6 - countered) + 5 * countered, 2 * countered)


@pytest.mark.parametrize(
    ("settings", "separate", "passing", "countered"),
    [
        # f(x) and f(t(x)) are the gate's, and are views of what is not moved.
        ({}, False, 2, 3),
        ({"views": ("identity", "mirror")}, False, 2, 3),
        ({"views": ("identity", "blur", "mirror")}, False, 2, 3),
        ({"views": ("mirror", "crop 0.8 centre", "mirror then blur")}, False, 2, 5),
        ({"views": ("identity", "blur"), "pass_through": "clean"}, False, 2, 2),
        ({"views": ("identity", "blur", "mirror"), "steps": 2}, False, 2, 2 + 2 + 3),
        ({"views": ("identity", "blur"), "pass_through": "noise"}, False, 3, 2 + 2),
        ({"views": ("identity", "blur"), "gate": "drift", "pass_through": "clean"}, False, 2, 2 + 1),
        ({"views": ("identity", "blur")}, True, 2, 1 + 1),
    ],
)
def test_what_the_gate_has_seen_is_not_made_again(settings, separate, passing, countered):
    settings = {"gate": "agreement", "steps": 0, "pass_through": "both", **settings}
    tower, drift_tower = make_tower(gain=8.0), make_tower(seed=1, gain=8.0) if separate else None
    x, noise, config, tau = batch(drift_tower or tower, **settings)
    config = gated(config, tau, "some")
    encoder = Counting(tower.model.visual, tune=False)
    drift_encoder = None if drift_tower is None else make_encoder(drift_tower, tune=False)
    engine = make_engine(tower, config, encoder=encoder, drift_encoder=drift_encoder)
    encoder.forwards = 0
    result = engine.run(x, Noise(noise))
    assert_tiers(result, counterattack(tower, x, noise, config, drift_encode=drift_tower), config)
    assert encoder.forwards == 3 * passing + 3 * countered
    spent = engine_passes(config, images=6, countered=3, drift_encoder=separate)[0]
    assert spent == encoder.forwards + (2 * 6 if separate else 0)


@pytest.mark.parametrize(
    ("settings", "passing", "with_clean", "countered"),
    [
        ({"pass_through": "views", "views": ("blur", "mirror")}, 2, 3, 1 + 2),
        ({"pass_through": "views", "views": ("blur", "identity", "mirror")}, 3, 3, 1 + 2),
        ({"pass_through": "noise", "steps": 2}, 1, 2, 1 + 2 + 1),
        ({"pass_through": "clean", "views": ("blur",)}, 1, 1, 1 + 1),
    ],
)
def test_what_costs_nothing_to_gate(settings, passing, with_clean, countered):
    settings = {"gate": "none", "steps": 0, **settings}
    tower = make_tower(gain=8.0)
    for threshold, clean, forward in (
        (0.0, False, passing),
        (0.0, True, with_clean),
        (1.0, False, countered),
    ):
        x, noise, config, _ = batch(tower, tau_threshold=threshold, **settings)
        encoder = Counting(tower.model.visual, tune=False)
        engine = make_engine(tower, config, encoder=encoder)
        encoder.forwards = 0
        result = engine.run(x, Noise(noise), with_clean=clean)
        expected = counterattack(tower, x, noise, config)
        if not clean and threshold == 0 and with_clean > passing:
            expected.clean_embedding[:] = torch.nan
        assert_tiers(result, expected, config)
        assert encoder.forwards == 6 * forward
        spent = engine_passes(config, images=6, countered=6 if threshold else 0, with_clean=clean)
        assert spent[0] == encoder.forwards


@pytest.mark.parametrize("mix", ["none", "some", "all"])
def test_a_drift_tower_takes_two_passes_and_saves_the_other_one(mix):
    tower, drift_tower = make_tower(gain=8.0), make_tower(seed=1, gain=8.0)
    x, noise, config, tau = batch(drift_tower)
    countered = {"none": 0, "some": 3, "all": 6}[mix]
    encoder, drift_encoder = Counting(tower.model.visual, tune=False), Counting(drift_tower.model.visual)
    engine = make_engine(tower, gated(config, tau, mix), encoder=encoder, drift_encoder=drift_encoder)
    encoder.forwards = encoder.backwards = 0
    engine.run(x, Noise(noise))
    assert (drift_encoder.forwards, drift_encoder.backwards) == (2 * 6, 0)
    assert (encoder.forwards, encoder.backwards) == (6 - countered + 4 * countered, 2 * countered)


def test_countered_rows_of_several_chunks_are_countered_together():
    tower = make_tower(gain=8.0)
    x, noise, config, tau = batch(tower, 8)
    encoder = Counting(tower.model.visual, tune=False)
    engine = make_engine(tower, gated(config, tau, "some"), encoder=encoder)
    engine.chunk = 2
    encoder.calls = 0
    engine.run(x, Noise(noise))
    probes = 4 * (1 if encoder.prefers_double(2) else 2)
    assert encoder.calls == probes + 2 * 2  # four rows in two chunks, each a second step and the last pass


@pytest.mark.parametrize("precision", LOW)
def test_low_precision_reaches_what_float32_reaches(precision):
    tower = make_tower(gain=8.0)
    x, noise, config, tau = batch(tower, 8)
    assert 0.05 < tau.median() < 0.2
    config = gated(config, tau, "all")
    expected = counterattack(tower, x, noise, config)
    result = make_engine(tower, config, precision=precision).run(x, Noise(noise))
    assert result.embedding.dtype == result.drift.dtype == torch.float32
    assert result.delta is not None
    reached, wanted = (
        (tower(x + delta) - expected.clean_embedding).norm(dim=1) for delta in (result.delta, expected.delta)
    )
    assert (reached / wanted).min() > 0.95
    assert result.delta.abs().max() <= config.eps + 1e-6
    torch.testing.assert_close(result.drift, expected.drift, rtol=0, atol=5e-3)
    # Little of delta may go missing to a gradient that underflows.
    still = (result.delta - into_bounds(noise, x)).eq(0).float().mean()
    assert still < 1e-3


@pytest.fixture(scope="module")
def compiled() -> tuple:
    # Two blocks, of which the last differs from the other.
    tower = ImageTower(restless(build(**VIT | {"layers": 2}))).requires_grad_(False)
    x, noise, config, tau = batch(tower, 7)
    encoder = CompiledEncoder(make_encoder(tower, tune=False))
    engine = make_engine(tower, gated(config, tau, "some"), encoder=encoder)
    engine.chunk = 1  # each size more is compiled for half a minute
    engine.warmup([7])
    return tower, x, noise, engine


def test_compiled_is_the_reference_and_never_compiles_after_warmup(compiled):
    tower, x, noise, engine = compiled
    made = set(engine.encoder._compiled)
    with torch.compiler.set_stance("fail_on_recompile"):
        for n in (7, 2, 1, 3):
            result = engine.run(x[:n], Noise(noise[:n]))
            assert_tiers(result, counterattack(tower, x[:n], noise[:n], engine.config), engine.config)
    assert set(engine.encoder._compiled) == made


def test_copies_that_fill_a_compiled_batch_are_no_answers(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    tower = make_tower(gain=8.0)
    x, noise, config, tau = batch(tower, 7)
    encoder = CompiledEncoder(make_encoder(tower, tune=False))
    engine = make_engine(tower, gated(config, tau, "some"), encoder=encoder)
    engine.chunk = 8
    for n in (7, 3, 5, 6):
        result = engine.run(x[:n], Noise(noise[:n]))
        assert_tiers(result, counterattack(tower, x[:n], noise[:n], engine.config), engine.config)


@pytest.mark.parametrize("double", [True, False])
def test_the_gates_pictures_share_a_double_batch_where_that_is_faster(monkeypatch, double):
    tower = make_tower(gain=8.0)
    x, noise, config, _ = batch(tower, 3, gate="agreement", pass_through="clean", tau_threshold=0.0)
    encoder, sizes = make_encoder(tower, tune=False), []
    embed = encoder.embed

    def watched(base, d=None):
        sizes.append(len(base))
        return embed(base, d)

    monkeypatch.setattr(encoder, "embed", watched)
    monkeypatch.setattr(encoder, "prefers_double", lambda _: double)
    engine = make_engine(tower, config, encoder=encoder)
    sizes.clear()  # it measures what activations take
    assert_tiers(engine.run(x, Noise(noise)), counterattack(tower, x, noise, config), config)
    assert sizes == ([6] if double else [3, 3])


def test_without_answers_all_else_is_as_with_them():
    tower = make_tower(gain=8.0)
    x, noise, config, tau = batch(tower, 6, views=["identity", "mirror"], pass_through="clean")
    engine = make_engine(tower, gated(config, tau, "some"))
    whole, part = (engine.run(x, Noise(noise), with_answer=answered) for answered in (True, False))
    assert torch.equal(part.embedding.isnan().all(dim=1), whole.countered)
    assert torch.equal(part.embedding[~whole.countered], whole.embedding[~whole.countered])
    for name in ("drift", "countered", "clean_embedding", "delta"):
        assert torch.equal(getattr(part, name), getattr(whole, name)), name


@pytest.mark.slow  # test_warmup.py counts the same without compiling
def test_warmup_with_a_drift_tower_leaves_nothing_to_compile():
    tower, drift_tower = make_tower(gain=8.0), make_tower(seed=1, gain=8.0)
    x, noise, config, tau = batch(drift_tower, 2)
    encoders = [CompiledEncoder(make_encoder(each, tune=False)) for each in (tower, drift_tower)]
    config = gated(config, tau, "some")
    engine = make_engine(tower, config, encoder=encoders[0], drift_encoder=encoders[1])
    engine.warmup([2])
    made = [set(encoder._compiled) for encoder in encoders]
    engine.run(x, Noise(noise))
    engine.embed(x[:1])  # what the classifier asks for beside a drift tower
    assert [set(encoder._compiled) for encoder in encoders] == made


def test_options_compile_and_capture_and_warmup_leaves_nothing_to_compile():
    tower = make_tower("one block", gain=8.0)
    x, noise, config, tau = batch(tower, 3, steps=3, **MOMENTUM, **LOW_PASS)
    encoder = CompiledEncoder(make_encoder(tower, tune=False))
    engine = make_engine(tower, gated(config, tau, "some"), encoder=encoder)
    engine.chunk = 2
    engine.warmup([2])
    made = set(encoder._compiled)
    captured = recorded(engine, tower)
    captured.warmup([2])
    stages = Recorded.made
    with torch.compiler.set_stance("fail_on_recompile"):
        for run in (engine.run, captured.run):
            for rows in (slice(3), slice(2, 3), slice(1, None)):
                expected = counterattack(tower, x[rows], noise[rows], engine.config)
                assert_tiers(run(x[rows], Noise(noise[rows])), expected, engine.config)
    assert set(encoder._compiled) == made
    assert Recorded.made == stages


def test_compiled_is_safe_across_threads(compiled):
    _, x, noise, engine = compiled
    expected = engine.run(x, Noise(noise))
    assert_same_from_threads(engine, x, noise, expected)


def test_concurrent_calls_do_not_meet():
    tower = make_tower(gain=8.0)
    x, noise, config, tau = batch(tower, 7)
    engine = make_engine(tower, gated(config, tau, "some"))
    assert_same_from_threads(engine, x, noise, engine.run(x, Noise(noise)))


def assert_same_from_threads(engine: Engine, x: Tensor, noise: Tensor, expected: Counterattacked) -> None:
    wrong = []

    def call(first: int) -> None:
        for i in range(10):
            rows = torch.arange(first, first + 2 + i % 3) % len(x)
            got = engine.run(x[rows], Noise(noise[rows]))
            cosine = torch.cosine_similarity(got.embedding, expected.embedding[rows], dim=1)
            if not torch.equal(got.countered, expected.countered[rows]) or cosine.min() < 1 - 1e-6:
                wrong.append(first)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(call, range(4)))
    assert not wrong


def recorded(engine: Engine, tower: ImageTower) -> Engine:
    """An engine over the same encoder whose stages are captured."""
    captured = make_engine(tower, engine.config, encoder=engine.encoder)
    captured.chunk, captured._graphs = engine.chunk, Graphs(Recorded)
    return captured


class Recorded:
    """Stands for a CUDA graph on a CPU: it too reads and fills memory of its own."""

    made = 0

    def __init__(self, function, inputs: tuple[Tensor, ...]) -> None:
        Recorded.made += 1
        self.function = function
        self.inputs = tuple(torch.empty_like(tensor) for tensor in inputs)
        self.outputs = tuple(tensor.clone() for tensor in function(*inputs))

    def replay(self) -> None:
        for kept, new in zip(self.outputs, self.function(*self.inputs), strict=True):
            kept.copy_(new)


def test_captured_stages_are_the_reference_and_made_once(compiled):
    tower, x, noise, engine = compiled
    captured = recorded(engine, tower)
    captured.warmup([7])
    made = Recorded.made
    first = captured.run(x, Noise(noise))
    kept = first.embedding.clone()
    for n in (3, 7, 1, 5):
        result = captured.run(x[:n].flip(0), Noise(noise[:n].flip(0)))
        expected = counterattack(tower, x[:n].flip(0), noise[:n].flip(0), engine.config)
        assert_tiers(result, expected, engine.config)
    assert torch.equal(first.embedding, kept)  # no later call overwrites an answer
    assert Recorded.made == made
    assert_same_from_threads(captured, x, noise, first)


def test_memory_does_not_grow_with_varying_batches():
    tower = make_tower(gain=8.0)
    x, noise, config, tau = batch(tower, 11)
    engine = make_engine(tower, gated(config, tau, "some"))

    def calls(count: int) -> int:
        for i in range(count):
            n = 1 + i % 11
            engine.run(x[:n], Noise(noise[:n]))
        status = Path("/proc/self/statm").read_text()
        return int(status.split()[1]) * 4096

    settled = calls(200)
    assert calls(1000) - settled < 8 << 20


class Exhausting(VitEncoder):
    """Has no memory for more than some images at a time."""

    limit = 8

    def embed(self, base: Tensor, d: Tensor | None = None) -> Tensor:
        if len(base) > self.limit:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return super().embed(base, d)

    def prefers_double(self, n: int) -> bool:  # noqa: ARG002
        return False


def test_out_of_memory_halves_the_chunk_for_good_and_keeps_what_is_done():
    tower = make_tower(gain=8.0)
    x, noise, config, tau = batch(tower, 8)
    config = gated(config, tau, "some")
    encoder = Exhausting(tower.model.visual, tune=False)
    engine = make_engine(tower, config, encoder=encoder)
    expected = counterattack(tower, x, noise, config)
    encoder.limit = 2
    with pytest.warns(UserWarning, match="images a chunk: trying") as warned:
        assert_tiers(engine.run(x, Noise(noise)), expected, config)
    assert [str(warning.message) for warning in warned] == [
        "out of memory at 8 images a chunk: trying 4",
        "out of memory at 4 images a chunk: trying 2",
    ]
    # What did not fit once is not tried again.
    assert_tiers(engine.run(x, Noise(noise)), expected, config)
    encoder.limit = 0
    with (
        pytest.warns(UserWarning, match="trying 1"),
        pytest.raises(OutOfMemoryError, match="at one image a chunk, with 0 of 8 images"),
    ):
        engine.run(x, Noise(noise))


def test_a_second_attempt_holds_nothing_of_the_first():
    tower = make_tower(gain=8.0)
    x, noise, config, tau = batch(tower, 8)
    made: list[weakref.ref] = []
    held: list[int] = []

    class Watched(Exhausting):
        """Makes something and then has no memory; says how much of it is still there."""

        def embed(self, base: Tensor, d: Tensor | None = None) -> Tensor:
            held.append(sum(kept() is not None for kept in made))
            activation = torch.empty(len(base), 3)
            made.append(weakref.ref(activation))
            return super().embed(base, d)

    encoder = Watched(tower.model.visual, tune=False)
    engine = make_engine(tower, gated(config, tau, "none"), encoder=encoder)
    encoder.limit = 4
    made.clear()
    held.clear()
    with pytest.warns(UserWarning, match="trying 4"):
        engine.run(x, Noise(noise))
    assert len(held) == 3
    assert held == [0, 0, 0]


def test_rows_that_wait_are_countered_before_more_is_probed():
    tower = make_tower(gain=8.0)
    x, noise, config, tau = batch(tower, 8)
    order: list[tuple[str, int]] = []

    class Ordered(Exhausting):
        """Notes its passes, and has no memory for the second probe."""

        def embed(self, base: Tensor, d: Tensor | None = None) -> Tensor:
            order.append(("probe" if d is None else "finish", len(base)))
            self.limit = 3 if len(order) == 2 else 8
            return super().embed(base, d)

    encoder = Ordered(tower.model.visual, tune=False)
    order_of_drift = tau.argsort()
    rows = torch.cat(
        [order_of_drift[:3], order_of_drift[5:], order_of_drift[3:5]]
    )  # three wait after a probe
    config = gated(config, tau, "some")
    engine = make_engine(tower, config, encoder=encoder)
    engine.chunk = 4
    order.clear()
    with pytest.warns(UserWarning, match="at 4 images a chunk: trying 2"):
        result = engine.run(x[rows], Noise(noise[rows]))
    assert order[:4] == [("probe", 4), ("probe", 4), ("finish", 2), ("probe", 2)]
    expected = counterattack(tower, x[rows], noise[rows], config)
    assert_tiers(result, expected, config)


def test_other_errors_are_not_taken_for_memory():
    tower = make_tower()
    x, noise, config, _ = batch(tower)
    engine = make_engine(tower, config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match="must match the size"):
            engine.run(x[..., :16].contiguous(), Noise(noise[..., :16].contiguous()))


def test_memory_bounds_the_chunk():
    tower = make_tower()
    config = CounterattackConfig()
    assert make_engine(tower, config).chunk == 8
    encoder = Exhausting(tower.model.visual, tune=False)  # which makes no double batches
    x = encoder.to_layout(smooth(1, tower.image_size))
    each = sum(t.nbytes for t in leaves(probe(encoder, x, torch.zeros_like(x), double=False)))
    assert make_engine(tower, config, memory=3 * 3 * each, encoder=encoder).chunk == 3
    assert make_engine(tower, config, memory=3 * 3 * each, encoder=CompiledEncoder(encoder)).chunk == 2
    assert make_engine(tower, config, memory=1, encoder=encoder).chunk == 1
    doubling = make_encoder(tower, tune=False)
    assert doubling.prefers_double(3)
    assert make_engine(tower, config, memory=2 * 3 * 3 * each, encoder=doubling).chunk == 3


class Heavy(PixelEncoder):
    """Saves far more of an image than the image itself, and knows what of it is still held."""

    form = "explicit"
    saves = 1 << 20  # bytes an image

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.weight = torch.randn(3 * 8 * 8, 4)

    def embed(self, base: Tensor, d: Tensor | None = None) -> Tensor:
        return (base if d is None else base + d).flatten(1) @ self.weight

    def forward(self, base: Tensor, d: Tensor) -> tuple[Tensor, Saved]:
        return self.embed(base, d), (torch.zeros(len(base), self.saves // 4),)

    def input_gradient(self, saved: Saved, cotangent: Tensor) -> Tensor:  # noqa: ARG002
        return (cotangent @ self.weight.t()).unflatten(1, (3, 8, 8))


class Held(TorchDispatchMode):
    """The most bytes in large tensors that were there at once: every operator's results are watched."""

    def __init__(self, large: int) -> None:
        super().__init__()
        self.large, self.most = large, 0
        self._alive: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in leaves(result if isinstance(result, (Tensor, tuple)) else ()):
            if tensor.untyped_storage().nbytes() >= self.large:
                self._alive[id(tensor)] = weakref.ref(tensor)
        tensors = [tensor for kept in self._alive.values() if (tensor := kept()) is not None]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        self.most = max(self.most, sum(storages.values()))
        return result


@pytest.mark.parametrize("countered", [[3, 3, 3, 3], [4, 4, 4], [1, 0, 3, 2, 4, 3], [0, 0]])
def test_memory_bounds_what_is_held(countered):
    """Whatever share of each chunk waits for the loop."""
    encoder, chunk = Heavy(), 4
    n = chunk * len(countered)
    x = torch.rand(n, 3, 8, 8)
    config = CounterattackConfig(steps=3)
    noise = torch.empty_like(x).uniform_(-config.eps, config.eps)
    tau = (encoder.embed(x + into_bounds(noise, x)) - encoder.embed(x)).norm(dim=1)
    tau = tau / encoder.embed(x).norm(dim=1)
    order, total = tau.argsort(), sum(countered)
    low, high = order[:total].split(countered), order[total:].split([chunk - k for k in countered])
    rows = torch.cat([torch.cat(pair) for pair in zip(low, high, strict=True)])
    between = (tau[order[total - 1]] + tau[order[total]]) / 2 if 0 < total < n else 0
    threshold = 1e9 if total == n else between
    config = replace(config, tau_threshold=float(threshold))
    memory = 3 * chunk * (encoder.saves + 4096)
    engine = Engine(encoder, config, image_size=(8, 8), device=CPU, memory=memory)
    assert engine.chunk == chunk
    with Held(encoder.saves // 2) as held:
        result = engine.run(x[rows], Noise(noise[rows]))
    assert result.countered.reshape(-1, chunk).sum(dim=1).tolist() == countered
    assert chunk * encoder.saves <= held.most <= memory


def test_the_algorithm_stands_in_the_schedule_alone():
    package = Path(clipfast.__file__).parent
    names = {"clamp", "clamp_", "sign", "sgn", "softmax", "layer_norm", "native_layer_norm"}
    for path in [
        *(package / "defence" / f"{name}.py" for name in ("engine", "batch", "schedule", "model_state")),
        *package.glob("exporters/**/*.py"),
    ]:
        tree = ast.parse(path.read_text())
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        used |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert not used & names, path
