"""What the model of photographs learns from: crops, captions, and words above the classes."""

from __future__ import annotations

import json
import warnings

import numpy as np
import open_clip
import pytest
import torch
from bundled_models.packing import new_model, pack
from bundled_models.photographs import recipe
from bundled_models.photographs.captions import captions, membership
from bundled_models.photographs.pictures import Pictures, epoch_order, read, varied
from bundled_models.photographs.report import report
from bundled_models.stages import Stage, run_stages
from small_copies import CIFAR10, save

from clipfast import DefendedClassifier, InputError, UncalibratedWarning
from clipfast.models.bundled import load_bundled
from clipfast.models.tokenizer import WordTokenizer

PREPROCESS = {
    "size": recipe.IMAGE_SIZE,
    "mean": open_clip.OPENAI_DATASET_MEAN,
    "std": open_clip.OPENAI_DATASET_STD,
    "interpolation": "bicubic",
}


def test_crops_are_of_the_mirrored_border_and_half_are_mirrored():
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8)
    pad = recipe.PADDING
    padded = np.pad(pixels.numpy(), ((0, 0), (0, 0), (pad, pad), (pad, pad)), mode="reflect")
    made = (varied(pixels, (2, 7)) * 255).round().to(torch.uint8).numpy()
    mirrored, places = 0, set()
    for crop, whole in zip(made, padded, strict=True):
        found = [
            (top, left, turned)
            for top in range(2 * pad + 1)
            for left in range(2 * pad + 1)
            for turned in (False, True)
            if np.array_equal(crop, whole[:, top : top + 8, left : left + 8][:, :, :: -1 if turned else 1])
        ]
        assert found
        mirrored += found[0][2]
        places.add(found[0][:2])
    assert 16 < mirrored < 48
    assert len(places) > 30  # of 81
    assert torch.equal(varied(pixels, (2, 7)), varied(pixels, (2, 7)))
    assert not torch.equal(varied(pixels, (2, 7)), varied(pixels, (2, 8)))


def test_an_epoch_has_each_picture_once_in_an_order_of_its_own():
    first, second = (epoch_order(1000, (2, epoch)) for epoch in (0, 1))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(1000))
    assert not torch.equal(first, second)


def test_captions_never_hold_what_is_kept_for_the_report():
    tokenizer = WordTokenizer(recipe.WORDS, context_length=recipe.MODEL_CFG["text_cfg"]["context_length"])
    names = [(name, *recipe.SYNONYMS.get(name, ())) for name in recipe.CLASSNAMES]
    phrases = [phrase for level in recipe.LEVELS for phrase in level if phrase != recipe.UNSEEN_WORD]
    seen = set()
    for step in range(200):
        texts = captions(2, step)
        tokenizer(texts)
        assert len(texts) == len(names) + len(phrases)
        for text, possible in zip(texts, [*names, *((phrase,) for phrase in phrases)], strict=True):
            matched = [t for t in recipe.TRAINING_TEMPLATES for name in possible if t.format(name) == text]
            assert matched, text
        seen.update(texts)
    assert not any(recipe.UNSEEN_WORD in text for text in seen)
    assert recipe.UNSEEN_TEMPLATE not in recipe.TRAINING_TEMPLATES
    tokenizer([recipe.UNSEEN_TEMPLATE.format(recipe.UNSEEN_WORD)])  # its words are known all the same
    assert {t for t in recipe.TRAINING_TEMPLATES if t.format("plane") in seen} == set(
        recipe.TRAINING_TEMPLATES
    )


def test_each_level_parts_the_classes_that_it_names():
    first, second = membership()
    assert torch.equal(first.sum(dim=1), torch.ones(10))
    unseen = torch.tensor([float(name == "bird") for name in CIFAR10])
    assert torch.equal(second.sum(dim=1), 1 - unseen)
    for level in recipe.LEVELS:
        assert sorted(name for names in level.values() for name in names) == sorted(CIFAR10)


def test_pictures_are_the_data_set_s(tmp_path):
    for label, name in enumerate(CIFAR10):
        save(tmp_path / "train" / name / "0.jpg", label)
    pictures = read(tmp_path, "train")
    assert pictures.pixels.shape == (10, 3, 32, 32)
    assert sorted(pictures.labels.tolist()) == list(range(10))
    (tmp_path / "train" / "truck").rename(tmp_path / "train" / "lorry")
    with pytest.raises(InputError, match="expected classes"):
        read(tmp_path, "train")
    (tmp_path / "train" / "lorry").rename(tmp_path / "train" / "truck")
    (tmp_path / "train" / "truck" / "0.jpg").write_bytes(b"none")
    with pytest.raises(InputError, match=r"cannot read truck/0\.jpg"):
        read(tmp_path, "train")


def test_what_follows_a_stage_made_anew_is_made_anew_from_the_start(tmp_path):
    made = []
    states = [tmp_path / "run" / f"{name}.unfinished" for name in "abc"]
    products = [tmp_path / "out" / name for name in "abc"]

    def stage(i: int) -> Stage:
        def make() -> None:
            made.append((products[i].name, states[i].exists()))
            products[i].write_text("made")

        return Stage(make, states[i])

    stages = {product: stage(i) for i, product in enumerate(products)}
    run_stages(stages)
    assert made == [("a", False), ("b", False), ("c", False)]
    made.clear()
    run_stages(stages)
    assert made == []
    products[1].unlink()
    for state in states:
        state.write_text("half")
    run_stages(stages)
    assert made == [("b", True), ("c", False)]


def test_the_report_is_of_what_the_model_answers(tmp_path):
    model = new_model(recipe.MODEL_CFG, PREPROCESS, seed=3)
    tokenizer = WordTokenizer(recipe.WORDS, context_length=recipe.MODEL_CFG["text_cfg"]["context_length"])
    pack(model, tmp_path, model_cfg=recipe.MODEL_CFG, classnames=recipe.CLASSNAMES, tokenizer=tokenizer)
    pixels = torch.randint(0, 256, (60, 3, 32, 32), dtype=torch.uint8)
    loaded = load_bundled(tmp_path)

    def answers(names, template: str) -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UncalibratedWarning)
            classifier = DefendedClassifier(loaded.model, tokenizer, names, templates=[template])
        return classifier.undefended(pixels).argmax(1)

    labels = answers(recipe.CLASSNAMES, recipe.TRAINING_TEMPLATES[0])
    labels[:15] = (labels[:15] + 1) % 10
    report(tmp_path, Pictures(pixels, labels), torch.device("cpu"))
    said = json.loads((tmp_path / "report.json").read_text())
    assert (said["pictures"], said["clean"]["mean"], said["clean"]["n"]) == (60, 0.75, 60)
    unseen = answers(recipe.CLASSNAMES, recipe.UNSEEN_TEMPLATE) == labels
    assert said["unseen_template"]["mean"] == pytest.approx(unseen.double().mean().item())
    for level, found in zip(recipe.LEVELS, said["words_above"], strict=True):
        phrases = list(level)
        above = torch.tensor(
            [phrases.index(next(p for p in phrases if recipe.CLASSNAMES[i] in level[p])) for i in labels]
        )
        right = answers(phrases, recipe.TRAINING_TEMPLATES[0]) == above
        assert found["all"]["mean"] == pytest.approx(right.double().mean().item())
        for phrase, share in found["of"].items():
            rows = above == phrases.index(phrase)
            assert (share["n"], share["mean"]) == (
                rows.sum(),
                pytest.approx(right[rows].double().mean().item()),
            )
