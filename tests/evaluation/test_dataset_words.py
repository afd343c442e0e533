from __future__ import annotations

from importlib.resources import files

import open_clip
import pytest
from torchvision.datasets import Flowers102

from clipfast.evaluation.datasets import class_words, find_dataset
from clipfast.evaluation.datasets.countries import COUNTRIES, country
from clipfast.evaluation.datasets.registry import DATASETS, PAPER_TEMPLATES


def test_country_codes_become_the_names_of_211_countries():
    assert len(COUNTRIES) == len(set(COUNTRIES.values())) == 211
    assert list(COUNTRIES) == sorted(COUNTRIES)
    assert all(code.isalpha() and code.isupper() for code in COUNTRIES)
    assert [country(code) for code in ("AD", "AZ", "CD", "KP", "XK", "ZW")] == [
        "Andorra", "Azerbaijan", "Democratic Republic of the Congo", "North Korea", "Kosovo", "Zimbabwe",
    ]  # fmt: skip
    assert country("QQ") == "QQ"


@pytest.mark.parametrize(
    ("word", "raw", "expected"),
    [
        (class_words.spaced, "fish_and_chips", "fish and chips"),
        (class_words.spaced, "apartment_building/outdoor", "apartment building outdoor"),
        (class_words.spaced, "polka-dotted", "polka-dotted"),
        (class_words.camel_case, "AnnualCrop", "annual crop"),
        (class_words.camel_case, "River", "river"),
        (class_words.caltech101, "Faces_easy", "faces easy"),
        (class_words.caltech256, "001.ak47", "ak47"),
        (class_words.caltech256, "232.t-shirt", "t shirt"),
        (class_words.caltech256, "252.car-side-101", "car side"),
        (class_words.aircraft, "707-320", "Boeing 707-320"),
        (class_words.aircraft, "Boeing 717", "Boeing 717"),
        (class_words.aircraft, "F/A-18", "F/A-18"),
        (class_words.flower, "pink-yellow dahlia?", "pink-yellow dahlia"),
    ],
)
def test_raw_names_become_words(word, raw, expected):
    assert word(raw) == expected


def imagenet_synonyms() -> list[list[str]]:
    """The true synonyms of ImageNet's thousand classes, in the order of their ids."""
    info = files("timm.data._info")
    lemma = dict(
        line.split("\t", 1) for line in (info / "imagenet_synset_to_lemma.txt").read_text().splitlines()
    )
    wnids = (info / "imagenet_synsets.txt").read_text().split()
    return [lemma[wnid].split(", ") for wnid in sorted(wnids)]


def test_imagenets_thousand_are_named_as_open_clip_does_and_each_differently():
    names = class_words.imagenet(imagenet_synonyms())
    assert len(set(names)) == len(names) == 1000
    others = {i: name for i, name in enumerate(names) if name != open_clip.IMAGENET_CLASSNAMES[i]}
    assert others == {744: "projectile", 836: "sunglass"}


def test_part_of_imagenet_is_named_by_its_first_synonyms():
    some = [["tench", "Tinca tinca"], ["crane"], ["crane", "lifting device"]]
    assert class_words.imagenet(some) == ["tench", "crane", "crane, lifting device"]


def test_prompts_of_the_names_that_are_known_without_data():
    known = {
        "country211": COUNTRIES.values(),
        "flowers102": DATASETS["flowers102"].read.classnames(Flowers102),
        "pcam": DATASETS["pcam"].read.classnames(None),
        "drawn": find_dataset("drawn").classnames,
        "imagenet": class_words.imagenet(imagenet_synonyms()),
    }
    sizes = {"country211": 211, "flowers102": 102, "pcam": 2, "drawn": 120, "imagenet": 1000}
    for name, classnames in known.items():
        prompts = [PAPER_TEMPLATES[0].format(classname) for classname in classnames]
        assert len(prompts) == sizes[name]
        assert len(set(prompts)) == len(prompts), name
        for prompt in prompts:
            assert prompt.startswith("This is a photo of a "), name
            assert not set(prompt) & set("_{}?"), prompt
            assert prompt == " ".join(prompt.split()), prompt
