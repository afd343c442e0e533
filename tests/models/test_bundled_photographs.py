"""The bundled model of photographs, without its pictures: they are not part of clipfast."""

from __future__ import annotations

import json
import shutil
import warnings

import pytest
import torch
from bundled_models.photographs import recipe
from bundled_models.photographs.card import RESULTS, model_card, under_attack

from clipfast import CounterattackConfig, DefendedClassifier, InputError
from clipfast.evaluation.results import Results
from clipfast.measurement.statistics import wilson
from clipfast.models.bundled import bundled_defaults, bundled_folder, load_bundled

PHOTOGRAPHS = bundled_folder("photographs")


def test_is_calibrated_and_small():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifiers = [
            DefendedClassifier.bundled("photographs", preset=preset)
            for preset in ("recommended", "published")
        ]
    assert all(classifier.calibrated for classifier in classifiers)
    assert classifiers[0].classnames == recipe.CLASSNAMES
    assert classifiers[0].image_size == (32, 32)
    assert sum(file.stat().st_size for file in PHOTOGRAPHS.glob("*.safetensors")) <= 5 * 2**20


def test_each_model_brings_its_own_recommended_settings():
    recommended = bundled_defaults(PHOTOGRAPHS).config
    assert recommended != CounterattackConfig.recommended()
    assert recommended.is_fixed
    assert DefendedClassifier.bundled("photographs").config == recommended


def test_the_card_is_the_report_s():
    report = json.loads((PHOTOGRAPHS / "report.json").read_text())
    assert report["pictures"] == recipe.REPORTED
    assert report["whole"]["pictures"] == 10_000
    assert report["whole"]["clean"]["mean"] >= 0.85
    assert (PHOTOGRAPHS / "MODEL_CARD.md").read_text() == model_card(report, load_bundled(PHOTOGRAPHS).model)


def test_the_card_tells_of_attacks_what_evaluations_found(tmp_path):
    assert "Not measured" in under_attack(tmp_path)
    recorded = {"transfer": "evaluation_transfer", "full": "evaluation_full", "rest": "evaluation_full_60"}
    for name, record in recorded.items():
        assert "Not measured" in under_attack(tmp_path)
        shutil.copy(RESULTS.parent / f"{record}.json", tmp_path / f"{name}.json")
    text = under_attack(tmp_path)
    assert "of 1000 test photographs" in text
    transfer = Results.from_json((tmp_path / "transfer.json").read_text())
    (plain,) = (system for system in transfer.systems if system.name == "undefended")
    low, high = wilson(int(plain.right["pgd-10@2/255"].sum()), 1000)
    shown = f"{100 * plain.right['pgd-10@2/255'].mean():.1f} ({100 * low:.0f} to {100 * high:.0f})"
    assert f"| undefended CLIP | 98.7 (98 to 99) | {shown} |" in text
    assert "| TTC as published (first 60) |" in text


def test_knows_its_words_alone():
    classifier = DefendedClassifier.bundled("photographs", ["animal", "flying animal", "lorry"])
    assert classifier.undefended(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    with pytest.raises(InputError, match=r"knows .* words only; not among them: red, circle"):
        DefendedClassifier.bundled("photographs", ["red circle"])
