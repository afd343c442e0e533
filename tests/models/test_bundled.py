from __future__ import annotations

import dataclasses
import json
import warnings

import pytest
import torch

from clipfast import CounterattackConfig, DefendedClassifier, InputError
from clipfast.attacks import pgd
from clipfast.models.bundled import bundled_defaults, bundled_folder
from clipfast.models.shapes import CLASSNAMES, draw

DRAWN = bundled_folder("drawn")
STREAM = 200  # of the tests' own, apart from training, report and demo


@pytest.fixture(scope="module")
def pictures():
    drawn = draw(200, seed=(STREAM, 0))
    return torch.from_numpy(drawn.pixels), torch.from_numpy(drawn.labels)


def accuracy(logits, labels):
    return (logits.argmax(1) == labels).double().mean().item()


def test_is_calibrated_and_small(bundled, twin):
    assert bundled.calibrated
    assert twin.calibrated
    assert bundled.classnames == CLASSNAMES
    assert bundled.image_size == (96, 96)
    assert sum(file.stat().st_size for file in DRAWN.glob("*.safetensors")) <= 8 * 2**20
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recommended = DefendedClassifier.bundled()
    assert recommended.calibrated
    assert not recommended.config.is_ttc()
    assert DefendedClassifier.bundled(finetuned=True).config == recommended.config


def test_a_preset_is_its_stages_with_a_threshold_of_this_model_where_it_has_one():
    config, stages = bundled_defaults(DRAWN, "published").config, CounterattackConfig.published()
    unset = {"tau_threshold": stages.tau_threshold, "calibrated_for": None}
    assert dataclasses.replace(config, **unset) == stages
    assert config.calibrated_for is not None
    assert DefendedClassifier.bundled(preset="published").config == config
    assert DefendedClassifier.bundled(preset="recommended").config == CounterattackConfig.recommended()


def test_classifies_fresh_pictures_and_falls_to_pgd(bundled, twin, pictures):
    pixels, labels = pictures
    x = pixels.float() / 255
    # Bounds three standard errors from the promises: at least 90 % clean, at most 50 % left at 2/255.
    assert accuracy(bundled.undefended(pixels), labels) > 0.90 - 3 * (0.09 / 200) ** 0.5
    attack = {"eps": 2 / 255, "step_size": 1 / 255, "steps": 10}
    x, labels = x[:50], labels[:50]
    left = accuracy(bundled.undefended(pgd(bundled.undefended, x, labels, **attack)), labels)
    assert left < 0.50 + 3 * (0.25 / 50) ** 0.5
    assert accuracy(twin.undefended(pgd(twin.undefended, x, labels, **attack)), labels) > left


def test_report_belongs_to_the_weights(bundled):
    report = json.loads((DRAWN / "report.json").read_text())
    assert CounterattackConfig.from_json(json.dumps(report["config"])) == bundled.config
    undefended = report["accuracy"]["undefended"]
    assert undefended["clean"]["all"]["mean"] >= 0.90
    assert undefended["pgd10_2"]["all"]["mean"] <= 0.50
    assert report["pictures"] >= 1000
    for scores in report["accuracy"].values():
        assert set(scores) == {"clean", "pgd10_1", "pgd10_2", "pgd10_4", "adaptive_2", "worst_2"}
    card = (DRAWN / "MODEL_CARD.md").read_text()
    assert "no evidence about real CLIP" in card
    assert f"{100 * report['accuracy']['TTC']['adaptive_2']['all']['mean']:.1f}" in card


def test_other_class_names_from_its_vocabulary():
    classifier = DefendedClassifier.bundled(classnames=["red circle", "blue star"])
    drawn = draw(60, seed=(STREAM, 1), kinds={"plain": 1.0})
    chosen = [i for i, label in enumerate(drawn.labels) if CLASSNAMES[label] in classifier.classnames]
    assert classifier.undefended(torch.from_numpy(drawn.pixels[chosen])).shape == (len(chosen), 2)
    with pytest.raises(InputError, match=r"knows .* words only; not among them: cat"):
        DefendedClassifier.bundled(classnames=["red circle", "cat"])
