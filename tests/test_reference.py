"""The reference against a second derivation that shares no code with it: numpy, central differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clipfast import CounterattackConfig
from clipfast.reference import counterattack, counterattack_early_return
from clipfast.reference_stages import gate_measure

N, SHAPE, D = 6, (3, 4, 4), 5
SCHEDULES = [counterattack, counterattack_early_return]
MOMENTUM, LOW_PASS = {"momentum": 0.9}, {"gate": "agreement", "transform": "low_pass 1.5"}


class TinyTower:
    """f(x) = tanh(W (x - 0.4)) + b in float64, for torch and for numpy; counts the images it encodes."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.weight = rng.normal(size=(D, int(np.prod(SHAPE)))) * 0.5
        self.bias = rng.normal(size=D)
        self.encoded = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.encoded += len(x)
        return torch.tanh((x.flatten(1) - 0.4) @ torch.from_numpy(self.weight).T) + torch.from_numpy(
            self.bias
        )

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return np.tanh((x.ravel() - 0.4) @ self.weight.T) + self.bias


@pytest.fixture
def tower() -> TinyTower:
    return TinyTower()


def example(config: CounterattackConfig, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, (N, *SHAPE))
    x[0] = rng.choice([0.0, 1.0], SHAPE)  # an image at the bounds, where every clamp bites
    noise = rng.uniform(-1, 1, (N, *SHAPE))
    if config.norm == "linf":
        return x, noise * config.eps
    lengths = np.sqrt((noise**2).sum(axis=(1, 2, 3), keepdims=True))
    return x, noise / lengths * config.eps * rng.uniform(0.2, 1, (N, 1, 1, 1))


def smoothed(image: np.ndarray, radius: float) -> np.ndarray:
    """The picture's waves of at most `radius` cycles, one by one, and cut off at 0 and 1."""
    _, height, width = image.shape
    rows, columns = np.mgrid[:height, :width]
    total = np.zeros_like(image)
    for u in range(-((height - 1) // 2), height // 2 + 1):
        for v in range(-((width - 1) // 2), width // 2 + 1):
            if np.sqrt(u**2 + v**2) <= radius:
                angle = 2 * np.pi * (u * rows / height + v * columns / width)
                for wave in (np.cos(angle), np.sin(angle)):
                    total += (image * wave).mean(axis=(1, 2), keepdims=True) * wave
    return np.clip(total, 0, 1)


def second_derivation(tower, x, noise, config, drift_tower=None):
    """One image at a time, gradients by central differences, weights written out."""
    deltas, drifts = [], []
    for image, start in zip(x, noise, strict=True):

        def into_bounds(d, image=image):
            return np.minimum(np.maximum(image + d, 0), 1) - image

        def distance(d, image=image):
            return ((tower.numpy(image + d) - tower.numpy(image)) ** 2).sum()

        d0 = into_bounds(start)
        measured = drift_tower or tower
        base = measured.numpy(image)
        if config.gate == "agreement":
            low = measured.numpy(smoothed(image, float(config.transform.removeprefix("low_pass "))))
            drifts.append(low @ base / np.sqrt((low @ low) * (base @ base)))
        else:
            moved = measured.numpy(image + d0) - base
            drifts.append(np.sqrt((moved**2).sum()) / np.sqrt((base**2).sum()))
        if not drifts[-1] < config.tau_threshold:
            deltas.append(d0 if config.pass_through == "noise" else np.zeros_like(d0))
            continue
        path, velocity = [d0], np.zeros_like(d0)
        for _ in range(config.steps):
            d, h = path[-1], 1e-6
            gradient = np.zeros_like(d)
            for index in np.ndindex(*SHAPE):
                probe = np.zeros_like(d)
                probe[index] = h
                ahead = d + config.momentum * velocity
                gradient[index] = (distance(ahead + probe) - distance(ahead - probe)) / (2 * h)
            length = np.sqrt((gradient**2).sum())
            direction = np.sign(gradient) if config.norm == "linf" else gradient / (length + 1e-10)
            velocity = config.momentum * velocity + config.step_size * direction
            d = d + velocity
            if config.norm == "linf":
                d = np.clip(d, -config.eps, config.eps)
            else:
                length = np.sqrt((d**2).sum())
                d = d * min(1.0, config.eps / length)
            path.append(into_bounds(d))
        raw = [np.exp(config.beta * k) for k in range(config.steps + 1)]
        deltas.append(sum(w / sum(raw) * d for w, d in zip(raw, path, strict=True)))
    return np.stack(deltas), np.array(drifts)


def median_drift(tower, x, noise, config) -> float:
    drifts = np.sort(second_derivation(tower, x, noise, config)[1])
    return float((drifts[N // 2 - 1] + drifts[N // 2]) / 2)


def settings(**values) -> CounterattackConfig:
    base = {"eps": 16 / 255, "step_size": 5 / 255, "beta": 1.3, "tau_threshold": 1e9}
    return CounterattackConfig(**{**base, **values})


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("gate", ["none", "some", "all"])
@pytest.mark.parametrize("pass_through", ["noise", "clean"])
@pytest.mark.parametrize(
    ("norm", "steps", "options"),
    [
        ("linf", 1, {}), ("linf", 2, {}), ("linf", 5, {}), ("l2", 2, {}), ("l2", 4, {}),
        ("linf", 1, MOMENTUM), ("linf", 2, MOMENTUM), ("linf", 4, MOMENTUM), ("l2", 4, MOMENTUM),
        ("linf", 2, LOW_PASS), ("l2", 2, LOW_PASS), ("linf", 4, MOMENTUM | LOW_PASS),
    ],
)  # fmt: skip
def test_agrees_with_the_second_derivation(tower, schedule, gate, pass_through, norm, steps, options):
    budget = {"eps": 0.4, "step_size": 0.15} if norm == "l2" else {}
    options = {"norm": norm, "steps": steps, "pass_through": pass_through, **budget, **options}
    config = settings(**options)
    x, noise = example(config)
    threshold = {"none": 0.0, "some": median_drift(tower, x, noise, config), "all": 1e9}[gate]
    config = settings(tau_threshold=threshold, **options)
    delta, drift = second_derivation(tower, x, noise, config)
    result = schedule(tower, torch.from_numpy(x), torch.from_numpy(noise), config)
    np.testing.assert_allclose(result.drift.numpy(), drift, rtol=1e-9)
    np.testing.assert_array_equal(result.countered.numpy(), drift < threshold)
    np.testing.assert_allclose(result.delta.numpy(), delta, atol=1e-7)
    clean = np.stack([tower.numpy(image) for image in x])
    embedding = np.stack([tower.numpy(image) for image in x + delta])
    np.testing.assert_allclose(result.clean_embedding.numpy(), clean, atol=1e-12)
    np.testing.assert_allclose(result.embedding.numpy(), embedding, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("pass_through", ["noise", "clean"])
@pytest.mark.parametrize("options", [{}, LOW_PASS])
def test_drift_may_be_measured_by_another_tower(tower, schedule, pass_through, options):
    other = TinyTower(seed=9)
    config = settings(pass_through=pass_through, **options)
    x, noise = example(config)
    threshold = median_drift(other, x, noise, config)
    config = settings(pass_through=pass_through, tau_threshold=threshold, **options)
    delta, drift = second_derivation(tower, x, noise, config, drift_tower=other)
    result = schedule(tower, torch.from_numpy(x), torch.from_numpy(noise), config, drift_encode=other)
    np.testing.assert_allclose(result.drift.numpy(), drift, rtol=1e-9)
    np.testing.assert_allclose(result.delta.numpy(), delta, atol=1e-7)
    embedding = np.stack([tower.numpy(image) for image in x + delta])
    np.testing.assert_allclose(result.embedding.numpy(), embedding, atol=1e-6)
    known = ~result.clean_embedding.isnan().any(dim=1)
    assert known[result.countered].all()
    clean = np.stack([tower.numpy(image) for image in x])
    np.testing.assert_allclose(result.clean_embedding[known].numpy(), clean[known.numpy()], atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("separate", [False, True])
def test_both_pictures_that_the_gate_compared_answer_what_passes(tower, schedule, separate):
    other = TinyTower(seed=9) if separate else None
    config = settings(pass_through="both", **LOW_PASS)
    x, noise = example(config)
    threshold = median_drift(other or tower, x, noise, config)
    config = settings(pass_through="both", tau_threshold=threshold, **LOW_PASS)
    delta, drift = second_derivation(tower, x, noise, config, drift_tower=other)
    result = schedule(tower, torch.from_numpy(x), torch.from_numpy(noise), config, drift_encode=other)
    np.testing.assert_allclose(result.delta.numpy(), delta, atol=1e-7)
    for i in range(N):
        pair = np.stack([tower.numpy(x[i]), tower.numpy(smoothed(x[i], 1.5))])
        expected = (pair / np.sqrt((pair**2).sum(axis=1, keepdims=True))).mean(axis=0)
        if drift[i] < threshold:
            expected = tower.numpy(x[i] + delta[i])
        np.testing.assert_allclose(result.embedding[i].numpy(), expected, atol=1e-6)
        np.testing.assert_allclose(result.clean_embedding[i].numpy(), tower.numpy(x[i]), atol=1e-12)


def test_weights_are_the_hand_computed_ones(tower):
    # With one large step from a known start, delta = w0 d0 + w1 d1 where d1 is at the budget's corners.
    config = settings(steps=1, beta=2.0, step_size=1.0)
    x = np.full((1, *SHAPE), 0.5)
    noise = np.full_like(x, 3 / 255)
    delta = counterattack(tower, torch.from_numpy(x), torch.from_numpy(noise), config).delta.numpy()
    w0, w1 = 0.11920292202211755, 0.8807970779778823  # 1 / (1 + e^2), e^2 / (1 + e^2)
    np.testing.assert_allclose(np.abs(delta - w0 * 3 / 255), w1 * 16 / 255, atol=1e-12)
    three = settings(steps=2, beta=1.0, step_size=1.0)
    total = counterattack(tower, torch.from_numpy(x), torch.from_numpy(noise), three).delta.numpy()
    v0, v1, v2 = 0.09003057317038046, 0.24472847105479767, 0.6652409557748219  # softmax of 0, 1, 2
    corners = (total - v0 * 3 / 255) / (16 / 255)
    allowed = np.array([v1 + v2, v1 - v2, v2 - v1, -v1 - v2])
    assert np.abs(corners[..., None] - allowed).min(axis=-1).max() < 1e-12


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{}, MOMENTUM])
def test_budgets_and_bounds_hold(tower, schedule, norm, dtype, options):
    config = settings(norm=norm, steps=6, eps=0.3 if norm == "l2" else 16 / 255, step_size=0.2, **options)
    x, noise = (torch.from_numpy(a).to(dtype) for a in example(config))
    delta = schedule(lambda p: tower(p.double()).to(dtype), x, noise, config).delta
    size = delta.abs().amax() if norm == "linf" else delta.flatten(1).norm(dim=1).amax()
    assert size <= config.eps + 1e-6
    assert size > 0.5 * config.eps
    moved = x + delta
    assert moved.min() >= -1e-6
    assert moved.max() <= 1 + 1e-6


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("options", [{}, LOW_PASS])
def test_gate_is_strict(tower, schedule, options):
    config = settings(**options)
    x, noise = map(torch.from_numpy, example(config))
    drift = schedule(tower, x, noise, config).drift
    at_third = settings(tau_threshold=drift[3].item(), **options)
    assert schedule(tower, x, noise, at_third).countered.tolist() == (drift < drift[3]).tolist()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_off(tower, schedule, mode):
    config = settings()
    x, noise = map(torch.from_numpy, example(config))
    expected = schedule(tower, x, noise, config)
    with mode():
        result = schedule(tower, x.clone(), noise.clone(), config)
    for name, value in result._asdict().items():
        assert torch.equal(value, getattr(expected, name)), name
        assert not value.requires_grad, name


@pytest.mark.parametrize(
    ("threshold", "published", "early"),
    # Forward passes an image: f(x), f(x + d0), f(x + d1), f(x + delta) against 2 for those that pass.
    [(0.0, 4 * N, 2 * N), (1e9, 4 * N, 4 * N)],
)
def test_forward_passes_are_those_of_the_cost_model(tower, threshold, published, early):
    config = settings(tau_threshold=threshold)
    x, noise = map(torch.from_numpy, example(config))
    for schedule, passes in zip(SCHEDULES, (published, early), strict=True):
        tower.encoded = 0
        schedule(tower, x, noise, config)
        assert tower.encoded == passes


@pytest.mark.parametrize(
    ("threshold", "pass_through", "passes"),
    [(0.0, "clean", 2), (0.0, "noise", 3), (0.0, "both", 3), (1e9, "clean", 5)],
)
def test_forward_passes_of_the_low_pass_gate(tower, threshold, pass_through, passes):
    # f(x) and f(low-pass x); then f(x + d0), f(x + d1) and f(x + delta).
    config = settings(pass_through=pass_through, tau_threshold=threshold, **LOW_PASS)
    x, noise = map(torch.from_numpy, example(config))
    counterattack_early_return(tower, x, noise, config)
    assert tower.encoded == passes * N


def test_inputs_are_left_alone(tower):
    config = settings()
    x, noise = map(torch.from_numpy, example(config))
    kept = x.clone(), noise.clone()
    for schedule in SCHEDULES:
        schedule(tower, x, noise, config)
    assert torch.equal(x, kept[0])
    assert torch.equal(noise, kept[1])


@pytest.mark.parametrize("options", [{}, MOMENTUM | LOW_PASS])
def test_unrolled_gradient_matches_finite_differences(tower, options):
    # With a smooth sign the whole counterattack is differentiable; check one pixel against differences.
    config = settings(steps=3, **options)
    x, noise = map(torch.from_numpy, example(config, seed=3))
    x = x[1:2].clamp(0.2, 0.8)
    noise = noise[1:2]

    def value(p):
        result = counterattack(tower, p, noise, config, sign=lambda g: torch.tanh(20 * g), create_graph=True)
        return result.embedding.sum()

    leaf = x.clone().requires_grad_()
    gradient = torch.autograd.grad(value(leaf), leaf)[0]
    for index in [(0, 0, 1, 2), (0, 2, 3, 0)]:
        step = torch.zeros_like(x)
        step[index] = 1e-5
        slope = (value(x + step) - value(x - step)).item() / 2e-5
        assert gradient[index].item() == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_the_low_pass_gate_has_its_gradient_on_flat_white(tower):
    config, white = settings(**LOW_PASS), torch.ones(1, *SHAPE, dtype=torch.float64)
    clean = torch.randn(1, D, dtype=torch.float64)

    def measure(p):
        return gate_measure(tower, p, torch.zeros_like(p), clean, config).sum()

    leaf = white.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(measure(leaf), leaf)
    slope = (measure(white) - measure(white - 1e-6)).item() / 1e-6
    assert gradient.sum().item() == pytest.approx(slope, rel=1e-4)
    assert abs(slope) > 0.01


def test_early_return_runs_the_fewer_rows_again_and_reuses_the_probe_for_many(tower):
    x, noise = map(torch.from_numpy, example(settings()))
    drift = counterattack(tower, x, noise, settings()).drift.sort().values
    for countered, rows_again in ((2, 2), (3, 0), (5, 0)):
        config = settings(tau_threshold=((drift[countered - 1] + drift[countered]) / 2).item())
        tower.encoded = 0
        assert counterattack_early_return(tower, x, noise, config).countered.sum() == countered
        assert tower.encoded == 2 * N + rows_again + 2 * countered


@pytest.mark.parametrize(("pass_through", "passes"), [("noise", N), ("clean", N)])
def test_separate_drift_encoder_saves_the_main_tower_a_pass(tower, pass_through, passes):
    other = TinyTower(seed=9)
    config = settings(tau_threshold=0.0, pass_through=pass_through)
    x, noise = map(torch.from_numpy, example(config))
    counterattack_early_return(tower, x, noise, config, drift_encode=other)
    assert (tower.encoded, other.encoded) == (passes, 2 * N)
