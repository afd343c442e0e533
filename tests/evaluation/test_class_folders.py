"""Known data sets as class folders, where torchvision's own form is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_copies import CIFAR10, COPIES, colour, save, text

from clipfast import InputError
from clipfast.evaluation.datasets import find_dataset
from clipfast.preprocess import Preprocess

PREPROCESS = Preprocess(size=(24, 24))


def cifar10(root: Path) -> None:
    for split, shift in {"test": 0, "train": 1}.items():
        for label, name in enumerate(CIFAR10):
            save(root / split / name / "0000.jpg", label + shift)


def caltech101(root: Path) -> None:
    for label, name in enumerate(["Faces_easy", "Leopards", "accordion"]):
        save(root / name / "image_0001.jpg", label)
    save(root / "BACKGROUND_Google" / "image_0001.jpg", 9)


def imagenette(root: Path) -> None:
    for label, wnid in enumerate(["n01440764", "n03028079", "n03888257"]):
        save(root / "val" / wnid / f"{wnid}_10.JPEG", label)


def dtd(root: Path) -> None:
    for label, name in enumerate(["banded", "polka-dotted"]):
        for part, split in enumerate(("test", "train")):
            save(root / "images" / name / f"{name}_000{part}.jpg", label + part)
            listed = [f"{each}/{each}_000{part}.jpg" for each in ("banded", "polka-dotted")]
            text(root / "labels" / f"{split}1.txt", *listed)


FORMS = {
    "cifar10": (cifar10, ("cifar10", "."), tuple(CIFAR10)),
    "caltech101": (
        caltech101,
        ("caltech-101/101_ObjectCategories", "101_ObjectCategories", "caltech_101"),
        ("faces easy", "leopards", "accordion"),
    ),
    "imagenette": (
        imagenette,
        ("imagenette2-320", "imagenette2-160", "."),
        ("tench", "church", "parachute"),
    ),
    "dtd": (dtd, ("dtd", "."), ("banded", "polka-dotted")),
}
CASES = [(name, place) for name, (_, places, _) in FORMS.items() for place in places]


@pytest.mark.parametrize(("name", "place"), CASES)
def test_a_data_set_in_class_folders_has_its_words_and_pictures(name, place, tmp_path):
    write, _, classnames = FORMS[name]
    write(tmp_path / place)
    dataset = find_dataset(name, root=tmp_path)
    assert (dataset.name, dataset.classnames) == (name, classnames)
    taken = dataset.take(PREPROCESS)
    assert sorted(taken.labels.tolist()) == list(range(len(classnames)))
    for pixels, label in zip(taken.pixels, taken.labels.tolist(), strict=True):
        assert (pixels.float().mean(dim=(1, 2)) - pixels.new_tensor(colour(label)).float()).abs().max() < 4


@pytest.mark.parametrize("name", ["cifar10", "dtd"])
def test_another_split_is_the_other_pictures(name, tmp_path):
    FORMS[name][0](tmp_path)
    splits = [
        set(find_dataset(name, root=tmp_path, split=s).take(PREPROCESS).names) for s in ("test", "train")
    ]
    colours = find_dataset(name, root=tmp_path, split="train").take(PREPROCESS)
    assert len(splits[0]) == len(splits[1]) == len(FORMS[name][2])
    assert name != "dtd" or not splits[0] & splits[1]  # below one folder, by their names
    first = colours.pixels[colours.labels == 0][0].float().mean(dim=(1, 2))
    assert (first - first.new_tensor(colour(1))).abs().max() < 4


def test_torchvisions_form_comes_first(tmp_path, monkeypatch):
    COPIES["cifar10"](tmp_path, monkeypatch)
    for name in CIFAR10:
        save(tmp_path / "test" / name / "0000.jpg", 0)
    assert len(find_dataset("cifar10", root=tmp_path)) == 4


def test_what_is_missing_is_named_in_both_forms(tmp_path):
    with pytest.raises(InputError) as caught:
        find_dataset("cifar10", root=tmp_path, split="train")
    for place in ("cifar-10-batches-py", "cifar10/train", "train"):
        assert str(tmp_path / place) in str(caught.value)
    dtd(tmp_path)
    (tmp_path / "labels" / "test1.txt").unlink()
    with pytest.raises(InputError, match=r"expected the split's list .*test1\.txt"):
        find_dataset("dtd", root=tmp_path)
    text(tmp_path / "labels" / "test1.txt", "banded/gone.jpg")
    with pytest.raises(InputError, match=r"test1\.txt names banded/gone\.jpg, which is not in"):
        find_dataset("dtd", root=tmp_path)
