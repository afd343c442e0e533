from __future__ import annotations

import copy
import dataclasses
import io
import pickle
import secrets
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import open_clip
import pytest
import torch
from conftest import CLASSNAMES, linf_draw, make_classifier, make_tiny_clip, pixels, split_threshold
from lab import VIEWS_ALONE
from torch.utils._python_dispatch import TorchDispatchMode

from clipfast import (
    CounterattackConfig,
    DefendedClassifier,
    GradientError,
    InputError,
    UncalibratedWarning,
    implementations,
)
from clipfast.attacks.pass_counter import PassCounter
from clipfast.defence.precision import available
from clipfast.inputs.noise import Noise
from clipfast.inputs.philox import linf_noise
from clipfast.models.fingerprint import fingerprint
from clipfast.reference import counterattack
from clipfast.reference_stages import answer_embedding


def gated(model, tokenizer, x, noise, **options):
    """A classifier whose gate splits the batch x under this noise."""
    config = CounterattackConfig(**options)
    drift = make_classifier(model, tokenizer, config=config).predict(x, noise=noise).drift
    config = dataclasses.replace(config, tau_threshold=split_threshold(drift))
    return make_classifier(model, tokenizer, config=config)


@pytest.fixture
def x():
    return pixels(8)


@pytest.fixture
def noise(x):
    return linf_draw(x.float(), CounterattackConfig())


@pytest.mark.parametrize("pass_through", ["noise", "clean"])
def test_predict_is_the_reference_with_the_zero_shot_head(tiny_clip, tokenizer, x, noise, pass_through):
    classifier = gated(tiny_clip, tokenizer, x, noise, pass_through=pass_through)
    prediction = classifier.predict(x, noise=noise, with_delta=True)
    assert 0 < prediction.countered.sum() < len(x)

    mean, std = (
        torch.tensor(v)[:, None, None] for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )

    def encode(p):
        return tiny_clip.encode_image((p - mean) / std)

    expected = counterattack(encode, x.float() / 255, noise, classifier.config)
    torch.testing.assert_close(prediction.drift, expected.drift, rtol=1e-5, atol=2e-6)
    assert torch.equal(prediction.countered, expected.countered)
    flipped = ((prediction.delta - expected.delta).abs() > 1e-5).flatten(1).double().mean(dim=1)
    assert flipped.max() <= 1e-3
    templates = ["This is a photo of a {}."]
    weights = open_clip.build_zero_shot_classifier(tiny_clip, tokenizer, CLASSNAMES, templates)
    scale = tiny_clip.logit_scale.exp()
    for embedding, logits in [
        (expected.embedding, prediction.logits),
        (expected.clean_embedding, prediction.undefended_logits),
    ]:
        head = scale * torch.nn.functional.normalize(embedding, dim=1) @ weights
        torch.testing.assert_close(logits, head, atol=5e-3, rtol=0)
    torch.testing.assert_close(prediction.undefended_logits, classifier.undefended(x), atol=1e-4, rtol=0)


def test_passing_clean_is_exactly_undefended_clip(tiny_clip, tokenizer, x, noise):
    classifier = gated(tiny_clip, tokenizer, x, noise, pass_through="clean")
    prediction = classifier.predict(x, noise=noise, with_delta=True)
    passed = ~prediction.countered
    assert torch.equal(prediction.logits[passed], prediction.undefended_logits[passed])
    assert prediction.delta[passed].abs().max() == 0
    assert prediction.delta[~passed].abs().amax(dim=(1, 2, 3)).min() > 0


def test_same_noise_gives_the_same_bits(tiny_clip, tokenizer, x, noise):
    classifier = gated(tiny_clip, tokenizer, x, noise)
    first, second = (classifier.predict(x, noise=noise, with_delta=True) for _ in range(2))
    for field in ("logits", "undefended_logits", "embedding", "drift", "countered", "delta"):
        assert torch.equal(getattr(first, field), getattr(second, field)), field


def test_batch_of_eight_against_eight_of_one(tiny_clip, tokenizer, x, noise):
    classifier = gated(tiny_clip, tokenizer, x, noise)
    together = classifier.predict(x, noise=noise)
    alone = [classifier.predict(x[i : i + 1], noise=noise[i : i + 1]) for i in range(8)]
    assert torch.equal(together.countered, torch.cat([p.countered for p in alone]))
    passed = ~together.countered
    embedding = torch.cat([p.embedding for p in alone])
    difference = (embedding - together.embedding).norm(dim=1) / together.embedding.norm(dim=1)
    assert difference[passed].max() < 1e-5


@pytest.mark.parametrize("implementation", ["auto", "naive", "reference"])
def test_a_seeds_noise_is_that_of_clipfast_noise(tiny_clip, tokenizer, x, implementation):
    config = CounterattackConfig(tau_threshold=0)  # passes all, so that delta is the noise
    classifier = make_classifier(tiny_clip, tokenizer, config=config, implementation=implementation)
    middle, seed, first = torch.full(x.shape, 0.5), 2**64 - 3, 2**32 - 8
    delta = classifier.predict(middle, seed=seed, first_image=first, with_delta=True).delta
    images = np.arange(first, first + len(x)).astype(np.uint32)
    drawn = linf_noise(np.full(len(x), seed, np.uint64), images, (3, 32, 32), config.eps)
    assert np.array_equal(delta.numpy(), drawn)


def test_an_attacker_may_use_autocast(classifier, x):
    leaf = (x.float() / 255).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        logits = classifier.undefended(leaf)
        defended = classifier.differentiable("bpda")(leaf)
    assert logits.dtype == defended.dtype == torch.float32
    torch.testing.assert_close(logits, classifier.undefended(leaf), atol=2.0, rtol=0)
    assert torch.autograd.grad(logits.sum() + defended.sum(), leaf)[0].abs().max() > 0


@pytest.mark.parametrize("implementation", ["naive", "cpp"])
def test_operators_by_name_give_the_same_answers(tiny_clip, tokenizer, x, noise, implementation):
    if implementation in implementations().unavailable:
        pytest.skip("not built")
    config = gated(tiny_clip, tokenizer, x, noise).config
    one = make_classifier(tiny_clip, tokenizer, config=config, implementation=implementation)
    by_reference = make_classifier(tiny_clip, tokenizer, config=config, implementation="reference")
    ours, theirs = (c.predict(x, noise=noise, with_delta=True) for c in (one, by_reference))
    assert torch.equal(ours.countered, theirs.countered)
    assert 0 < int(ours.countered.sum()) < len(x)
    torch.testing.assert_close(ours.logits, theirs.logits, atol=5e-3, rtol=0)
    assert ((ours.delta - theirs.delta).abs() > 1e-5).float().mean() < 1e-3


def test_seed_fixes_an_images_noise_whatever_stands_beside_it(classifier, x):
    together = classifier.predict(x, seed=7, with_delta=True)
    assert torch.equal(together.delta, classifier.predict(x, seed=7, with_delta=True).delta)
    for first, last in ((0, 3), (3, 8)):
        part = classifier.predict(x[first:last], seed=np.int64(7), first_image=first)
        torch.testing.assert_close(part.drift, together.drift[first:last], rtol=1e-4, atol=0)
    assert not torch.equal(classifier.predict(x, seed=8).drift, together.drift)
    assert not torch.equal(classifier.predict(x).drift, classifier.predict(x).drift)


def test_forward_is_predicts_logits(tiny_clip, tokenizer, x):
    classifier = make_classifier(tiny_clip, tokenizer, noise_policy="content")
    assert torch.equal(classifier(x), classifier.predict(x).logits)
    assert torch.equal(classifier.train()(x), classifier.predict(x).logits)
    assert not tiny_clip.training


def test_autocast_around_it_changes_nothing(classifier, x, noise):
    expected = classifier.predict(x, noise=noise)
    with torch.autocast("cpu", torch.bfloat16):
        prediction = classifier.predict(x, noise=noise)
    assert prediction.logits.dtype == torch.float32
    assert torch.equal(prediction.logits, expected.logits)


def test_float_and_uint8_pixels_agree(classifier, x, noise):
    floats = classifier.predict(x.float() / 255, noise=noise)
    assert torch.equal(floats.logits, classifier.predict(x, noise=noise).logits)
    doubles = classifier.predict(x.double() / 255, noise=noise)
    torch.testing.assert_close(doubles.drift, floats.drift, rtol=1e-4, atol=0)


def test_bad_options_leave_the_model_alone(tokenizer):
    model = make_tiny_clip().train()
    with pytest.raises(InputError):
        make_classifier(model, tokenizer, templates=("no place",))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_noise_by_content(tiny_clip, tokenizer, x):
    options = {"noise_policy": "content", "noise_key": b"0123456789abcdef"}
    classifier = make_classifier(tiny_clip, tokenizer, **options)
    drift = classifier.predict(x).drift
    assert torch.equal(classifier.predict(x).drift, drift)
    torch.testing.assert_close(classifier.predict(x.flip(0)).drift.flip(0), drift, rtol=1e-4, atol=0)
    torch.testing.assert_close(classifier.predict(x.float() / 255).drift, drift, rtol=1e-4, atol=0)
    changed = x.clone()
    changed[0, 0, 0, 0] ^= 1
    after = classifier.predict(changed).drift
    assert (after[0] - drift[0]).abs() > 1e-3 * drift[0]
    other = make_classifier(
        tiny_clip, tokenizer, noise_policy="content", noise_key=b"another key, same length"
    )
    assert ((other.predict(x).drift - drift).abs() > 1e-3 * drift).all()
    seeded = classifier.predict(x, seed=1).drift
    assert torch.equal(seeded, classifier.predict(x, seed=1).drift)


def test_l2_runs_end_to_end(tiny_clip, tokenizer, x):
    config = CounterattackConfig(norm="l2", eps=1.0, step_size=0.5, tau_threshold=1e9)
    prediction = make_classifier(tiny_clip, tokenizer, config=config).predict(x, seed=3, with_delta=True)
    lengths = prediction.delta.flatten(1).norm(dim=1)
    assert lengths.max() <= 1.0 + 1e-6
    assert lengths.min() > 0.3


def test_prediction_reads_as_documented(classifier, x):
    prediction = classifier.predict(x, seed=1)
    assert len(prediction) == 8
    assert prediction.delta is None
    assert prediction.classnames == CLASSNAMES
    torch.testing.assert_close(prediction.probabilities.sum(dim=1), torch.ones(8))
    assert torch.equal(
        prediction.changed, prediction.logits.argmax(1) != prediction.undefended_logits.argmax(1)
    )
    best = prediction.topk(2)
    assert [len(row) for row in best] == [2] * 8
    for row, label in zip(best, prediction.labels.tolist(), strict=True):
        assert row[0][0] == CLASSNAMES[label]
        assert row[0][1] >= row[1][1]
    assert len(prediction.topk(99)[0]) == 3


def test_empty_batch(classifier):
    prediction = classifier.predict(torch.zeros(0, 3, 32, 32), with_delta=True)
    assert prediction.logits.shape == (0, 3)
    assert prediction.delta.shape == (0, 3, 32, 32)
    assert prediction.topk() == []
    assert classifier(torch.zeros(0, 3, 32, 32, dtype=torch.uint8)).shape == (0, 3)
    assert classifier.undefended(torch.zeros(0, 3, 32, 32)).shape == (0, 3)
    assert classifier.stats().images == 0


def test_stats_count_every_image_once(tiny_clip, tokenizer, x, noise):
    classifier = gated(tiny_clip, tokenizer, x, noise)
    prediction = classifier.predict(x, noise=noise)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: classifier.predict(x, noise=noise), range(3)))
    stats = classifier.stats()
    assert stats.images == 32
    assert stats.countered == 4 * int(prediction.countered.sum())
    assert stats.changed == 4 * int(prediction.changed.sum())
    expected, _ = np.histogram(prediction.drift.numpy(), stats.drift_edges)
    np.testing.assert_array_equal(stats.drift_histogram, 4 * expected)
    classifier.reset_stats()
    assert classifier.stats().images == 0
    assert classifier.stats().drift_histogram.sum() == 0


AGREEMENT = {"gate": "agreement"}


class HostReads(TorchDispatchMode):
    """Counts what waits for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, operator, _, args=(), kwargs=None):
        name = operator.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "is_nonzero", "item", "unique", "masked_select"):
            self.found.append(name)
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("options", "reads"),
    [
        ({}, 2),
        ({"gate": "agreement"}, 2),
        ({"gate": "agreement", "gate_depth": 1, "early_threshold": 0.9}, 3),
    ],
    ids=["drift", "agreement", "early"],
)
def test_a_batch_waits_for_its_gate_and_for_whether_answers_are_numbers(
    tiny_clip, tokenizer, x, options, reads
):
    config = CounterattackConfig(**options, tau_threshold=0.97, pass_through="clean")
    classifier = make_classifier(tiny_clip, tokenizer, config=config)
    classifier.predict(x, seed=0)  # packs the weights
    classifier.reset_stats()
    with HostReads() as seen:
        prediction = classifier.predict(x, seed=0)
    assert len(seen.found) == reads, seen.found
    stats = classifier.stats()
    assert (stats.images, stats.countered) == (8, int(prediction.countered.sum()))
    assert stats.drift_histogram.sum() == 8


def test_gradients_are_refused_never_hidden(classifier, x):
    leaf = (x.float() / 255).requires_grad_()
    for call in (classifier, classifier.predict):
        with pytest.raises(GradientError, match=r"differentiable\('bpda'\) or differentiable\('unrolled'\)"):
            call(leaf)
    with torch.no_grad():
        classifier(leaf)
    classifier(leaf.detach())
    assert classifier.undefended(leaf).requires_grad
    for parameter in classifier.parameters():
        assert not parameter.requires_grad


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_under_grad_modes(classifier, x, noise, mode):
    expected = classifier.predict(x, noise=noise).logits
    with mode():
        assert torch.equal(classifier.predict(x.clone(), noise=noise.clone()).logits, expected)


@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))], ids=["copy", "pickle"]
)
def test_copies_answer_alike_and_count_for_themselves(classifier, x, noise, how):
    twin = how(classifier)
    assert torch.equal(twin.predict(x, noise=noise).logits, classifier.predict(x, noise=noise).logits)
    assert (twin.stats().images, classifier.stats().images) == (8, 8)


def test_the_engine_is_the_reference_by_another_name(tiny_clip, tokenizer, x, noise):
    engine = gated(tiny_clip, tokenizer, x, noise)
    reference = make_classifier(tiny_clip, tokenizer, config=engine.config, implementation="reference")
    got, expected = (c.predict(x, noise=noise, with_delta=True) for c in (engine, reference))
    torch.testing.assert_close(got.logits, expected.logits, rtol=0, atol=5e-3)
    torch.testing.assert_close(got.undefended_logits, expected.undefended_logits, rtol=0, atol=1e-3)
    assert torch.equal(got.countered, expected.countered)
    assert ((got.delta - expected.delta).abs() > 1e-5).float().mean() < 1e-3
    assert engine.predict(x, noise=noise).delta is None


@pytest.mark.slow  # test_engine.py compiles the same tower, test_warmup.py counts
def test_compiled_answers_alike_after_warmup(tiny_clip, tokenizer, x, noise):
    plain = gated(tiny_clip, tokenizer, x, noise)
    compiled = make_classifier(tiny_clip, tokenizer, config=plain.config, compile=True)
    compiled.warmup([len(x)])
    with torch.compiler.set_stance("fail_on_recompile"):
        got = compiled.predict(x, noise=noise)
    torch.testing.assert_close(got.logits, plain.predict(x, noise=noise).logits, rtol=0, atol=5e-3)


def test_the_engine_follows_its_parameters(classifier, x, noise):
    before = classifier.predict(x, noise=noise)
    with torch.no_grad():
        classifier.image_tower.model.visual.proj.mul_(2)
    classifier.to("cpu")  # nn.Module's way to say that parameters moved
    after = classifier.predict(x, noise=noise)
    torch.testing.assert_close(after.embedding, 2 * before.embedding, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        state = {name: value.clone() for name, value in classifier.state_dict().items()}
        state["image_tower.model.visual.proj"] /= 2
    classifier.load_state_dict(state)
    torch.testing.assert_close(
        classifier.predict(x, noise=noise).embedding, before.embedding, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fresh_noise_is_within_eps_and_never_the_same(tiny_clip, tokenizer, x, norm):
    config = CounterattackConfig(tau_threshold=0, norm=norm)
    classifier = make_classifier(tiny_clip, tokenizer, config=config)
    middle = torch.full(x.shape, 0.5)
    first, second = (classifier.predict(middle, with_delta=True).delta for _ in range(2))
    assert not torch.equal(first, second)
    if norm == "linf":
        assert first.abs().max() <= config.eps
        assert (first.abs() > 0.9 * config.eps).float().mean() > 0.08
        assert first.mean().abs() < 0.02 * config.eps
    else:
        lengths = torch.cat([first, second]).flatten(1).norm(dim=1)
        assert lengths.max() <= config.eps * (1 + 1e-6)
        assert lengths.std() > 0.1 * config.eps  # the length is drawn too


CSR = {"momentum": 0.9, "gate": "agreement", "transform": "low_pass 4", "objective": "towards"}
VIEWS = {"gate": "high_noise_drift", "views": ["identity", "mirror", "crop 0.9 centre"], "steps": 1}
OPTIONS = pytest.mark.parametrize("options", [{}, CSR, VIEWS | {"view_weights": "agreement"}])


@OPTIONS
def test_differentiable_bpda_is_the_gradient_with_the_counterattack_held(
    tiny_clip, tokenizer, x, noise, options
):
    classifier = gated(tiny_clip, tokenizer, x, noise, **options)
    leaf = (x.float() / 255).requires_grad_()
    attackable = classifier.differentiable("bpda")
    logits = attackable(leaf, noise)
    prediction = classifier.predict(x, noise=noise, with_delta=True)
    assert 0 < prediction.countered.sum() < len(x)
    torch.testing.assert_close(logits.detach(), prediction.logits, atol=1e-4, rtol=0)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), leaf)
    moved = (x.float() / 255 + prediction.delta).clamp(0, 1).requires_grad_()
    seen = torch.nn.functional.normalize(answer_embedding(classifier.image_tower, moved, classifier.config))
    plain = torch.where(
        prediction.countered, classifier.logit_scale * (seen @ classifier.class_weights)[:, 0],
        classifier.undefended(moved)[:, 0],
    )  # fmt: skip
    (expected,) = torch.autograd.grad(plain.sum(), moved)
    torch.testing.assert_close(gradient, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)


@OPTIONS
def test_differentiable_unrolled_runs_through_the_smoothed_steps(tiny_clip, tokenizer, x, noise, options):
    classifier = gated(tiny_clip, tokenizer, x, noise, **options)
    leaf = (x.float() / 255).requires_grad_()

    def gradient(attackable):
        (value,) = torch.autograd.grad(attackable(leaf, noise)[:, 0].sum(), leaf)
        assert value.isfinite().all()
        return value

    bpda, unrolled = (gradient(classifier.differentiable(mode)) for mode in ("bpda", "unrolled"))
    smoother = classifier.differentiable("unrolled")
    smoother.smoothing = 1.0
    countered = classifier.predict(x, noise=noise).countered
    for other in (bpda, gradient(smoother)):
        difference = (unrolled - other).abs().amax(dim=(1, 2, 3))
        assert (difference[countered] > 0.05 * bpda.abs().amax()).any()


@OPTIONS
def test_differentiable_drift_is_the_gate_with_a_gradient(tiny_clip, tokenizer, x, noise, options):
    classifier = gated(tiny_clip, tokenizer, x, noise, **options)
    leaf = (x.float() / 255).requires_grad_()
    measure = classifier.differentiable("bpda").drift
    drift = measure(leaf, noise)
    torch.testing.assert_close(drift.detach(), classifier.predict(x, noise=noise).drift, rtol=1e-4, atol=0)
    (gradient,) = torch.autograd.grad(drift.sum(), leaf)
    assert (gradient.abs().amax(dim=(1, 2, 3)) > 0).all()
    with torch.no_grad():  # a step up the gradient is one towards passing the gate
        assert (measure((leaf + gradient.sign() / 2550).clamp(0, 1), noise) > drift).all()
    with pytest.raises(InputError, match="mode must be one of"):
        classifier.differentiable("autograd")


@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_differentiable_undefended_is_plain_clip(tiny_clip, tokenizer, x, implementation):
    classifier = make_classifier(tiny_clip, tokenizer, implementation=implementation)
    leaf = (x.float() / 255).requires_grad_()
    results = []
    for logits in (classifier.differentiable("undefended")(leaf), classifier.undefended(leaf)):
        (gradient,) = torch.autograd.grad(logits[:, 0].sum(), leaf)
        results.append((logits.detach(), gradient))
    (logits, gradient), (expected, expected_gradient) = results
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    scale = expected_gradient.abs().max().item()
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-5 * scale, rtol=0)


def test_attackers_gradients_are_float32_whatever_the_engine_is(tiny_clip, tokenizer, x):
    if "bf16" not in available(torch.device("cpu")):
        pytest.skip("no bfloat16 units")
    gradients = []
    for precision in ("bf16", "fp32"):
        classifier = make_classifier(tiny_clip, tokenizer, precision=precision)
        leaf = (x.float() / 255).requires_grad_()
        gradients += torch.autograd.grad(classifier.differentiable("undefended")(leaf)[:, 0].sum(), leaf)
    scale = gradients[1].abs().max().item()
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5 * scale, rtol=0)


def test_fresh_noise_each_call_of_the_attackers_module(classifier, x):
    attackable = classifier.differentiable("bpda")
    p = x.float() / 255
    assert not torch.equal(attackable(p), attackable(p))


def test_drift_model_measures_drift(tiny_clip, tokenizer, x, noise):
    other = make_tiny_clip(seed=5, sensitive=True)
    alone = make_classifier(other, tokenizer).predict(x, noise=noise)
    config = CounterattackConfig(tau_threshold=split_threshold(alone.drift))
    for pass_through in ("noise", "clean"):
        tuned = make_classifier(
            tiny_clip,
            tokenizer,
            drift_model=other,
            config=dataclasses.replace(config, pass_through=pass_through),
        )
        prediction = tuned.predict(x, noise=noise, with_undefended=True)
        torch.testing.assert_close(prediction.drift, alone.drift, rtol=1e-5, atol=0)
        torch.testing.assert_close(prediction.undefended_logits, tuned.undefended(x), atol=1e-4, rtol=0)
        expected = counterattack(
            tuned.image_tower, x.float() / 255, noise, tuned.config, drift_encode=tuned.drift_tower
        )
        torch.testing.assert_close(prediction.logits, tuned._head(expected.embedding), atol=5e-3, rtol=0)


def test_threshold_is_calibrated_only_for_its_model(tiny_clip, tokenizer, x):
    with pytest.warns(UncalibratedWarning, match="0.2 was not calibrated"):
        plain = DefendedClassifier(tiny_clip, tokenizer, CLASSNAMES)
    assert not plain.predict(x, seed=0).calibrated
    config = CounterattackConfig(tau_threshold=0.1).calibrated(fingerprint(tiny_clip.visual))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calibrated = DefendedClassifier(tiny_clip, tokenizer, CLASSNAMES, config=config)
        tuned = DefendedClassifier(
            make_tiny_clip(seed=3), tokenizer, CLASSNAMES, config=config, drift_model=tiny_clip
        )
    assert calibrated.predict(x, seed=0).calibrated
    assert tuned.calibrated  # the gate is measured by the model that it was calibrated for
    with pytest.warns(UncalibratedWarning):
        DefendedClassifier(make_tiny_clip(seed=3), tokenizer, CLASSNAMES, config=config)


def test_other_settings_are_those_of_a_classifier_made_with_them(tiny_clip, tokenizer, x):
    drift_model = make_tiny_clip(seed=3, sensitive=True)
    first = make_classifier(tiny_clip, tokenizer, drift_model=drift_model)
    before = first.predict(x, seed=1)
    threshold = split_threshold(before.drift)
    config = CounterattackConfig(eps=2 / 255, steps=3, tau_threshold=threshold, pass_through="clean")
    with pytest.warns(UncalibratedWarning, match=f"{threshold:g} was not calibrated"):
        other = first.with_config(config)
    expected = make_classifier(tiny_clip, tokenizer, drift_model=drift_model, config=config)
    found, wanted = (c.predict(x, seed=1, with_delta=True) for c in (other, expected))
    assert 0 < found.countered.sum() < len(x)
    for name in ("logits", "drift", "countered", "delta"):
        assert torch.equal(getattr(found, name), getattr(wanted, name))
    assert torch.equal(first.predict(x, seed=1).logits, before.logits)
    assert (first.stats().images, other.stats().images) == (2 * len(x), len(x))
    assert other.image_tower is first.image_tower
    assert other.engine.encoder is first.engine.encoder  # weights are packed once
    assert other.engine.drift_encoder is first.engine.drift_encoder is not None
    weights = fingerprint(drift_model.visual)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert first.with_config(config.calibrated(weights)).calibrated
    assert not first.calibrated


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda x: x[0], r"got \[3, 32, 32\]: one image needs a batch axis"),
        (lambda x: x[0, 0], r"expected pixels \[N, 3, 32, 32\], got \[32, 32\]"),
        (lambda x: x.permute(0, 2, 3, 1), "channels come first"),
        (lambda x: x[:, :1], r"got \[8, 1, 32, 32\]"),
        (lambda x: x[:, :, :16], r"got \[8, 3, 16, 32\]: clipfast.preprocess resizes"),
        (lambda x: x.int(), "got torch.int32"),
        (lambda x: x.numpy(), "got ndarray"),
        (lambda x: x.float(), r"looks like a float image in \[0, 255\]"),
        (lambda x: (x.float() / 255 - 0.45) / 0.27, "already normalised by mean and std"),
        (lambda x: x.float() * 100 - 5000, "no image that clipfast knows"),
        (lambda x: x.float() / 250, r"to 1\.0\d+; this looks like .* slightly out of range: clamp it"),
        (lambda x: torch.where(x.float() > 250, torch.nan, x.float() / 255), "NaN or infinity in image"),
        (lambda x: x.float() / 255 + torch.inf, "NaN or infinity in image 0"),
    ],
)
def test_bad_pixels_are_named(classifier, x, change, named):
    x[0, 0, 0, 0] = 255
    bad = change(x)
    for call in (classifier, classifier.predict, classifier.undefended, classifier.differentiable("bpda")):
        with pytest.raises(InputError, match=named):
            call(bad)
    assert classifier.stats().images == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda n: n[:4], r"shape \[8, 3, 32, 32\], got \[4, 3, 32, 32\]"),
        (lambda n: n * 1.01, "within eps = 0.0156863"),
        (lambda n: n * torch.nan, "got nan"),
        (lambda n: n.int(), "got torch.int32"),
        (lambda n: n.numpy(), "got ndarray"),
    ],
)
def test_bad_noise_is_named(classifier, x, change, named):
    noise = torch.full(x.shape, 4 / 255)
    with pytest.raises(InputError, match=named):
        classifier.predict(x, noise=change(noise))


def test_bad_options_are_named(tiny_clip, tokenizer, classifier, x):
    cases = [
        ({"implementation": "tritonic"}, "implementation must be"),
        ({"precision": "int4"}, "precision must be one of"),
        ({"implementation": "reference", "compile": True}, "no other precision, no compile"),
        ({"implementation": "reference", "precision": "bf16"}, "no other precision, no compile"),
        ({"noise_policy": "never"}, "noise_policy must be one of"),
        ({"noise_key": b"short"}, "16 to 64 bytes, got 5"),
        ({"noise_key": "0123456789abcdef"}, "must be bytes, got str"),
        ({"templates": "a {}."}, "expected a sequence of templates"),
        ({"drift_model": resized_clip()}, "drift_model for images of"),
    ]
    for options, named in cases:
        with pytest.raises(InputError, match=named):
            make_classifier(tiny_clip, tokenizer, **options)
    with pytest.raises(InputError, match="got the string 'cat'"):
        DefendedClassifier(tiny_clip, tokenizer, "cat")
    for seed in (-1, 2**64, 1.5, True):
        with pytest.raises(InputError, match="seed must be an integer"):
            classifier.predict(x, seed=seed)
    with pytest.raises(InputError, match="first_image must be an integer from 0"):
        classifier.predict(x, seed=1, first_image=2**32 - 7)
    with pytest.raises(InputError, match="k must be at least 1, got 0"):
        classifier.predict(x).topk(0)
    with pytest.raises(InputError, match=r"expected a float32 model, got parameters of .*float16"):
        make_classifier(make_tiny_clip().half(), tokenizer)
    with pytest.raises(InputError, match="got both"):
        classifier.predict(x, seed=1, noise=torch.zeros(x.shape))


def resized_clip():
    model = make_tiny_clip()
    model.visual.image_size = (64, 64)
    return model


@pytest.mark.parametrize("broken", ["nan", "zero"])
@pytest.mark.parametrize("gate", ["drift", "agreement", "high_noise_drift"])
def test_a_broken_drift_never_passes_as_an_answer(tiny_clip, tokenizer, x, broken, gate):
    classifier = make_classifier(tiny_clip, tokenizer, config=CounterattackConfig(gate=gate))
    with torch.no_grad():
        tiny_clip.visual.proj.fill_(torch.nan if broken == "nan" else 0.0)
    with pytest.raises(InputError, match="expected a finite drift"):
        classifier.predict(x, seed=0)
    assert classifier.stats().images == 0
    for threshold in (0.0, 1e9):  # the drift is sound here, the answer is not
        config = CounterattackConfig(tau_threshold=threshold, gate=gate)
        sound = make_tiny_clip(seed=5, sensitive=True)
        tuned = make_classifier(tiny_clip, tokenizer, drift_model=sound, config=config)
        with pytest.raises(InputError, match="expected a finite drift and embeddings"):
            tuned.predict(x, seed=0)


class OnGpu(torch.Tensor):
    """Pixels whose values are taken to be on a GPU, where reading them waits for it."""

    is_cuda = True


@pytest.mark.parametrize(
    "answer",
    [
        lambda c, x: c.undefended(x),
        lambda c, x: c.differentiable("undefended")(x),
        lambda c, x: c.differentiable("bpda")(x),
        lambda c, x: c.differentiable("unrolled")(x),
        lambda c, x: c.differentiable("bpda").drift(x),
        lambda c, x: c.predict(x),
    ],
    ids=["undefended", "differentiable", "bpda", "unrolled", "drift", "predict"],
)
@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_pixels_out_of_range_are_noticed_on_a_gpu_too(tiny_clip, tokenizer, x, answer, implementation):
    classifier = make_classifier(tiny_clip, tokenizer, implementation=implementation)
    x = x.float() / 255
    x[1, 0, 0, 0] = 1.5
    with pytest.raises(InputError, match=r"values from 0.* to 1\.5"):
        answer(classifier, x.as_subclass(OnGpu))


def test_without_a_gate_plain_clip_is_asked_only_on_request(tiny_clip, tokenizer, x):
    config = CounterattackConfig(**VIEWS_ALONE)
    classifier = make_classifier(tiny_clip, tokenizer, config=config)
    assert classifier.calibrated
    with PassCounter(classifier) as spent:
        bare = classifier.predict(x)
        logits = classifier(x)
    assert spent.an_image(len(x)).forward == 2 * 2
    assert bare.undefended_logits.isnan().all()
    assert not bare.changed.any()
    with PassCounter(classifier) as spent:
        whole = classifier.predict(x, with_undefended=True)
    assert spent.an_image(len(x)).forward == 3
    expected = classifier._head(answer_embedding(classifier.image_tower, x.float() / 255, config))
    for ours in (bare.logits, whole.logits, logits):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(whole.undefended_logits, classifier.undefended(x), rtol=0, atol=1e-3)
    assert torch.equal(whole.changed, expected.argmax(1) != classifier.undefended(x).argmax(1))
    assert not whole.countered.any()
    assert not whole.drift.any()


def test_without_a_gate_pixels_out_of_range_are_noticed(tiny_clip, tokenizer, x):
    classifier = make_classifier(tiny_clip, tokenizer, config=CounterattackConfig(**VIEWS_ALONE))
    bad = x.float() / 255
    bad[1, 2, 3, 4] = 1.5
    with pytest.raises(InputError, match=r"1\.5"):
        classifier.predict(bad)
    found = classifier.engine.run(bad, Noise(torch.zeros_like(bad)))
    assert found.drift.isnan().tolist() == [i == 1 for i in range(len(bad))]
    bad[1, 2, 3, 4] = torch.nan
    with pytest.raises(InputError, match="NaN or infinity in image 1"):
        classifier.predict(bad)


@pytest.mark.parametrize("change", [lambda c: c.half(), lambda c: c.to(torch.bfloat16), lambda c: c.double()])
def test_its_weights_stay_in_float32(classifier, x, change):
    before = classifier.predict(x, seed=0)
    with pytest.raises(InputError, match=r"expected weights that stay in float32, got .*precision="):
        change(classifier)
    assert torch.equal(classifier.predict(x, seed=0).logits, before.logits)


def test_torch_compile_leaves_it_as_it_is(classifier):
    """Traced, it broke at the second batch size."""
    compiled, predict = torch.compile(classifier), torch.compile(classifier.predict)
    for n in (2, 5, 3):
        some = pixels(n)
        assert compiled(some).shape == (n, 3)
        expected = classifier.predict(some, seed=1)
        assert torch.equal(predict(some, seed=1).logits, expected.logits)


def test_is_made_in_inference_mode_too(tokenizer, x):
    model = make_tiny_clip(sensitive=True)
    expected = make_classifier(model, tokenizer).predict(x, seed=1)
    with torch.inference_mode():
        made = make_classifier(model, tokenizer)
        bundled = DefendedClassifier.bundled(preset="published")
        foreign = make_tiny_clip()
        with pytest.raises(InputError, match=r"one made in torch\.inference_mode"):
            make_classifier(foreign, tokenizer)
    assert torch.equal(made.predict(x, seed=1).logits, expected.logits)
    assert bundled.predict(pixels(2, size=96)).countered.shape == (2,)


@pytest.mark.parametrize("broken", ["scale", "text"])
def test_weights_that_are_no_numbers_give_no_answers(tokenizer, broken):
    model = make_tiny_clip()
    with torch.no_grad():
        if broken == "scale":
            model.logit_scale.fill_(200.0)  # whose exponential is infinite
        else:
            model.token_embedding.weight[3] = torch.nan
    with pytest.raises(InputError, match="expected finite class weights and logit_scale"):
        make_classifier(model, tokenizer)


def test_weights_that_break_later_give_none_either(classifier, x):
    classifier.predict(x)
    with torch.no_grad():
        classifier.image_tower.model.logit_scale.fill_(torch.inf)
    with pytest.raises(InputError, match="and the scale inf"):
        classifier.predict(x)


def test_a_pickle_holds_no_noise_key(tiny_clip, tokenizer, x, tmp_path):
    key, file = secrets.token_bytes(32), tmp_path / "key"
    file.write_bytes(key)
    file.chmod(0o600)
    given = make_classifier(tiny_clip, tokenizer, noise_policy="content", noise_key=key)
    named = make_classifier(tiny_clip, tokenizer, noise_policy="content", noise_key=file)
    expected = given.predict(x).logits
    assert torch.equal(named.predict(x).logits, expected)
    for made in (given, named):
        data = io.BytesIO()
        torch.save(made, data)
        assert key not in pickle.dumps(made) + data.getvalue()
        assert torch.equal(copy.deepcopy(made).predict(x).logits, expected)
    assert torch.equal(pickle.loads(pickle.dumps(named)).predict(x).logits, expected)
    with pytest.raises(InputError, match="a pickle holds no noise key"):
        pickle.loads(pickle.dumps(given)).predict(x)
    file.unlink()
    with pytest.raises(InputError, match=r"cannot read the noise key .*key: No such file"):
        make_classifier(tiny_clip, tokenizer, noise_policy="content", noise_key=file)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_noise_key_that_others_may_read_is_refused(tiny_clip, tokenizer, tmp_path, mode):
    file = tmp_path / "key"
    file.write_bytes(bytes(32))
    file.chmod(mode)
    with pytest.raises(InputError, match=f"its owner alone may read .0600., got {mode:04o}"):
        make_classifier(tiny_clip, tokenizer, noise_policy="content", noise_key=file)
