"""The published and the recommended settings beside each other: who is made with which."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch
import torch.nn.functional as F
from conftest import make_classifier, pixels

from clipfast import CounterattackConfig
from clipfast.attacks.pass_counter import PassCounter
from clipfast.defence.passes import Passes
from clipfast.evaluation.datasets import find_dataset
from clipfast.evaluation.defences import DEFENCES, make_defences, systems, usual_defences
from clipfast.evaluation.model_pair import ModelPair
from clipfast.models.bundled import bundled_defaults, bundled_folder
from clipfast.reference_stages import transformed

DRAWN = bundled_folder("drawn")
VIEWS = ("identity", "mirror", "crop 0.8 top-left")


@pytest.fixture
def x():
    return pixels(6).float() / 255


def test_views_are_of_every_picture_and_a_pass_each(tiny_clip, tokenizer, x):
    config = CounterattackConfig(gate="agreement", views=VIEWS, pass_through="clean")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classifier = make_classifier(tiny_clip, tokenizer, config=config)
    system = systems.viewed(classifier)
    with torch.no_grad(), PassCounter(*system.classifiers) as spent:
        logits = system.answer(x, seed=0).logits
    assert spent.an_image(len(x)) == Passes(len(VIEWS), 0)
    tower = classifier.image_tower
    mean = sum(F.normalize(tower(transformed(x, view).clamp(0, 1))) for view in VIEWS)
    wanted = classifier.logit_scale * F.normalize(mean) @ classifier.class_weights
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-3)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(system.attackable(leaf)[:, 0].sum(), leaf)
    assert gradient.abs().amax(dim=(1, 2, 3)).min() > 0


def test_published_defences_stay_so_beside_the_recommended_one(bundled, twin):
    recommended = dataclasses.replace(bundled_defaults(DRAWN).config, steps=1)
    suite = make_defences(
        ["ttc", "nac", "views", "recommended", "ttc-twin"], bundled, twin, recommended=recommended
    )
    configs = {d.name: CounterattackConfig.from_settings(d.identity["config"]) for d in suite}
    for name in ("none", "ttc", "nac", "ttc-twin"):
        assert configs[name].is_ttc(), name
    assert configs["ttc"].tau_threshold == bundled_defaults(DRAWN, "published").config.tau_threshold
    assert configs["views"] == configs["recommended"] == recommended


@pytest.mark.parametrize("given", [None, "ttc", "other"])
def test_settings_that_are_given_take_the_place_of_their_kind(given):
    configs = {
        "ttc": CounterattackConfig(tau_threshold=0.3, steps=4),
        "other": CounterattackConfig(gate="agreement", tau_threshold=0.3),
    }
    config = None if given is None else configs[given]
    pair = ModelPair("drawn", None, None, config=config, device="cpu")
    published, recommended = (bundled_defaults(DRAWN, name).config for name in ("published", "recommended"))
    assert pair.recommended == (config if given == "other" else recommended)
    original, twin = pair.classifiers(find_dataset("drawn"))
    assert twin is not None
    assert original.config == twin.config == (config if given == "ttc" else published)


@pytest.mark.parametrize("steps", [0, 1])
def test_without_steps_nothing_is_drawn_and_nothing_unrolled(tiny_clip, tokenizer, x, steps):
    config = CounterattackConfig(
        gate="agreement", tau_threshold=2.0, steps=steps, views=VIEWS, pass_through="clean"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        system = systems.countered(make_classifier(tiny_clip, tokenizer, config=config))
    answers = [system.answer(x, seed=seed).logits for seed in (0, 1)]
    assert torch.equal(*answers) == (not system.randomised) == (steps == 0)
    assert (system.unrolled is None) == (steps == 0)


def test_views_alone_are_left_out_where_the_recommended_settings_are_nothing_else():
    fixed, gated = CounterattackConfig.recommended(), CounterattackConfig(views=VIEWS, pass_through="clean")
    assert set(DEFENCES) - set(usual_defences(fixed, with_twin=True)) == {"views"}
    assert set(DEFENCES) == set(usual_defences(gated, with_twin=True))
    assert set(DEFENCES) - set(usual_defences(gated, with_twin=False)) == {
        "recommended-twin",
        "twin",
        "ttc-twin",
    }
