from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import split_threshold
from lab import with_one_early
from torch import Tensor
from towers import doubled, make_tower, smooth

from clipfast import CounterattackConfig
from clipfast.defence.schedule import Schedule, defend
from clipfast.defence.transforming import PictureMap, transforms_of
from clipfast.encoders.vit import VitEncoder
from clipfast.inputs.noise import Noise
from clipfast.models.tower import ImageTower
from clipfast.reference import Counterattacked, counterattack
from clipfast.reference_stages import gate_measure, into_bounds

NORMS = {
    "linf": {"norm": "linf"},
    "l2": {"norm": "l2", "eps": 0.5, "step_size": 0.2},
    "l2, steps beyond the ball": {"norm": "l2", "eps": 0.1, "step_size": 0.3},
}


MOMENTUM, LOW_PASS = {"momentum": 0.9}, {"gate": "agreement", "transform": "low_pass 1.5"}
CASES = [(norm, steps, {}) for norm in NORMS for steps in (1, 2, 3, 10)]
CASES += [("linf", steps, options) for options in (MOMENTUM, LOW_PASS) for steps in (1, 2, 4)]
CASES += [("linf", 2, MOMENTUM | LOW_PASS), ("linf", 4, MOMENTUM | LOW_PASS)]
CASES += [("l2", 4, MOMENTUM), ("l2, steps beyond the ball", 4, MOMENTUM), ("l2", 2, LOW_PASS)]
HIGH_NOISE, BLUR = {"gate": "high_noise_drift", "gate_noise": 0.1}, {"gate": "agreement", "transform": "blur"}
TOWARDS = {"objective": "towards", "transform": "gaussian 0.8"}
VIEWS = {"views": ["identity", "mirror", "crop 0.9 top-left", "crop 0.8 centre"]}
AGREED = VIEWS | {"view_weights": "agreement"}
# Each choice of a stage with each of the others, in pairs.
STAGES = [
    ("linf", 2, HIGH_NOISE), ("linf", 0, HIGH_NOISE | VIEWS), ("l2", 3, HIGH_NOISE | TOWARDS | AGREED),
    ("linf", 3, BLUR | {"objective": "towards"}), ("linf", 0, BLUR), ("l2", 2, BLUR | AGREED),
    ("linf", 1, BLUR | VIEWS | MOMENTUM), ("linf", 2, TOWARDS), ("linf", 3, TOWARDS | VIEWS | MOMENTUM),
    ("linf", 0, AGREED), ("l2", 1, VIEWS), ("linf", 2, LOW_PASS | {"objective": "towards"} | AGREED),
]  # fmt: skip
BOTH = {"gate": "agreement", "transform": "mirror then gaussian 0.8 then crop 0.9 top-left"}
SEEN = {"views": ["identity", BOTH["transform"], "mirror"]}  # two of which the gate has made
DEPTH = {"gate": "agreement", "transform": "blur", "gate_depth": 1}
EARLY = {"gate": "agreement", "transform": BOTH["transform"], "gate_depth": 1, "early_threshold": 0.5}
MEAN = {"gate_tokens": "mean"}
READ = {"objective": "towards"} | MEAN | VIEWS
STAGES += [
    ("linf", 2, DEPTH), ("linf", 1, DEPTH | READ), ("linf", 0, DEPTH | VIEWS),
    ("linf", 2, EARLY), ("linf", 1, EARLY | READ), ("linf", 0, EARLY | SEEN),
]  # fmt: skip
NONE, ALL_VIEWS = {"gate": "none"}, {"gate": "none", "views": ["blur", "crop 0.8 centre"]}
BOTH_PASS = [
    ("linf", 0, BOTH | SEEN), ("l2", 2, BOTH | SEEN | {"objective": "towards"}), ("linf", 1, BOTH),
    ("linf", 0, LOW_PASS | AGREED), ("linf", 2, EARLY), ("linf", 0, EARLY | MEAN | SEEN),
]  # fmt: skip


def encoder_of(tower: ImageTower) -> VitEncoder:
    return VitEncoder(tower.model.visual, dtype=torch.float64, pack=False)


def start(x: Tensor, config: CounterattackConfig) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    if config.norm == "linf":
        return (2 * torch.rand(x.shape, generator=generator, dtype=x.dtype) - 1) * config.eps
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return 0.9 * config.eps * noise / noise.flatten(1).norm(dim=1)[:, None, None, None]


def threshold(mix: str, tau: Tensor) -> float:
    return {"none": 0.0, "some": split_threshold(tau), "all": 1e9}[mix]


def transforms(config: CounterattackConfig, tower: ImageTower) -> dict[str, PictureMap]:
    return transforms_of(config, tower.image_size, torch.device("cpu"), torch.float64)


MIXES = ("none", "some", "all")
ALL = [(*case, mix) for case in CASES for mix in MIXES]
ALL += [(*case, "some") for case in (*STAGES, ("linf", 0, BOTH | SEEN))]
ALL = [(*case, pass_through) for case in ALL for pass_through in ("noise", "clean")]
ALL += [(*case, mix, "both") for case in BOTH_PASS for mix in MIXES]
# Nothing is measured, so that all pass or all are countered.
ALL += [
    (norm, steps, NONE | options, mix, pass_through)
    for norm, steps, options, pass_through in [
        ("linf", 2, VIEWS, "noise"), ("l2", 1, {}, "clean"), ("linf", 0, ALL_VIEWS, "views"),
        ("linf", 2, TOWARDS | AGREED, "views"), ("linf", 0, VIEWS, "clean"),
    ]
    for mix in ("none", "all")
]  # fmt: skip


@pytest.mark.parametrize("separate", [False, True], ids=["one tower", "drift tower"])
@pytest.mark.parametrize(("norm", "steps", "options", "mix", "pass_through"), ALL)
def test_defend_is_the_reference_in_float64(norm, steps, options, separate, pass_through, mix):
    # In float64 no sign is ambiguous, so that the two agree all the way through.
    tower = doubled(make_tower(gain=8.0))
    drift_tower = doubled(make_tower("small patches", seed=1, gain=8.0)) if separate else None
    x = smooth(4, tower.image_size, dtype=torch.float64)
    config = CounterattackConfig(steps=steps, pass_through=pass_through, **NORMS[norm], **options)
    noise = start(x, config)
    measure = tower if drift_tower is None else drift_tower
    config = with_one_early(config, x, measure)
    tokens = partial(measure.gate_tokens, config=config)
    tau = gate_measure(measure, x, into_bounds(noise, x), measure(x), config, tokens)
    config = replace(config, tau_threshold=threshold(mix, tau))
    expected = counterattack(tower, x, noise, config, drift_encode=drift_tower, tokens=tokens)
    with torch.no_grad():
        schedule = Schedule(
            encoder_of(tower),
            config,
            torch.tensor(config.tau_threshold),
            drift_encoder=None if drift_tower is None else encoder_of(drift_tower),
            transforms=transforms(config, tower),
        )
        result = defend(schedule, x, Noise(noise))
    assert result.delta is not None
    # renorm, in the reference, divides by the norm plus 1e-7
    atol = 1e-10 if config.norm == "linf" else 1e-6
    torch.testing.assert_close(result.drift, expected.drift, rtol=1e-9, atol=0)
    assert torch.equal(result.countered, expected.countered)
    assert int(result.countered.sum()) == {"none": 0, "some": 2, "all": 4}[mix]
    torch.testing.assert_close(result.delta, expected.delta, rtol=0, atol=atol)
    torch.testing.assert_close(result.embedding, expected.embedding, rtol=0, atol=100 * atol)
    # f(x) is not computed where it is not needed.
    unknown = pass_through == "noise" or (pass_through == "views" and "identity" not in config.views)
    if (separate or config.gate == "none") and unknown:
        assert result.clean_embedding[~result.countered].isnan().all()
        assert not result.clean_embedding[result.countered].isnan().any()
    else:
        torch.testing.assert_close(result.clean_embedding, expected.clean_embedding, rtol=1e-9, atol=1e-12)
    assert (x + result.delta).min() >= 0
    assert (x + result.delta).max() <= 1
    size = result.delta.abs().amax() if config.norm == "linf" else result.delta.flatten(1).norm(dim=1).amax()
    assert size <= config.eps + 1e-6


@pytest.mark.parametrize("separate", [False, True], ids=["one tower", "drift tower"])
@pytest.mark.parametrize(
    ("options", "pass_through"),
    [
        *itertools.product(
            [
                {}, MOMENTUM, LOW_PASS, HIGH_NOISE | AGREED, BLUR | {"objective": "towards"},
                VIEWS | {"steps": 0},
            ],
            ["noise", "clean"],
        ),
        (BOTH | SEEN | {"steps": 0}, "both"),
        (BOTH | SEEN, "both"),
        (DEPTH | {"objective": "towards"}, "clean"),
        (EARLY | MEAN | SEEN, "both"),
        (EARLY, "noise"),
        (ALL_VIEWS | {"steps": 0}, "views"),
        (NONE | AGREED, "views"),
    ],
)  # fmt: skip
def test_a_mask_gives_what_rows_give(options, separate, pass_through):
    tower = doubled(make_tower(gain=8.0))
    drift_tower = doubled(make_tower("small patches", seed=1, gain=8.0)) if separate else tower
    x = smooth(4, tower.image_size, dtype=torch.float64)
    config = CounterattackConfig(pass_through=pass_through, **options)
    noise, config = start(x, config), with_one_early(config, x, drift_tower)
    tokens = partial(drift_tower.gate_tokens, config=config)
    tau = gate_measure(drift_tower, x, into_bounds(noise, x), drift_tower(x), config, tokens)
    limit = torch.tensor(0.0 if config.gate == "none" else split_threshold(tau))
    drift_encoder = encoder_of(drift_tower) if separate else None
    with torch.no_grad():
        masked, rows = (
            defend(
                Schedule(
                    encoder_of(tower),
                    config,
                    limit,
                    drift_encoder=drift_encoder,
                    transforms=transforms(config, tower),
                ),
                x,
                Noise(noise),
                masked=masked,
                with_clean=True,
            )
            for masked in (True, False)
        )
    assert int(rows.countered.sum()) == (0 if config.gate == "none" else 2)
    for ours, theirs in zip(masked, rows, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("options", [{}, LOW_PASS])
def test_the_gate_is_strict_and_nan_is_below_no_threshold(options):
    tower, config = doubled(make_tower(gain=8.0)), CounterattackConfig(**options)
    x = smooth(4, tower.image_size, dtype=torch.float64)
    noise = start(x, config)

    def gated(x: Tensor, limit: Tensor) -> Counterattacked:
        with torch.no_grad():
            schedule = Schedule(encoder_of(tower), config, limit, transforms=transforms(config, tower))
            return defend(schedule, x, Noise(noise))

    drift = gated(x, torch.tensor(0.0)).drift
    assert gated(x, drift[2]).countered.tolist() == (drift < drift[2]).tolist()
    x[1, 2, 3, 4] = torch.nan
    broken = gated(x, torch.tensor(1e9))
    assert broken.countered.tolist() == [True, False, True, True]
    assert broken.drift.isnan().tolist() == [False, True, False, False]
