from __future__ import annotations

import numpy as np
import pytest
import torch
from bundled_models.drawn import recipe
from small_copies import flat, save, save_cut_off

from clipfast import InputError
from clipfast.demo import subject
from clipfast.evaluation.datasets import Dataset, find_dataset
from clipfast.evaluation.datasets.drawn import _STREAM
from clipfast.models.shapes import CLASSNAMES, KINDS, draw
from clipfast.preprocess import Preprocess

PREPROCESS = Preprocess(size=(24, 24))


class Counted:
    """Twenty pictures, and which of them were read."""

    def __init__(self):
        self.read_so_far = []

    def __len__(self):
        return 20

    def name(self, index):
        return f"{index:02d}"

    def read(self, index):
        self.read_so_far.append(index)
        return flat(index), index


@pytest.fixture
def counted() -> Dataset:
    return Dataset(name="counted", classnames=("x",) * 20, templates=("{}",), pictures=Counted())


def test_equal_seeds_take_equal_pictures(counted):
    first, again, other = (counted.take(PREPROCESS, 8, seed=seed) for seed in (4, 4, 5))
    assert first.names == again.names
    assert torch.equal(first.pixels, again.pixels)
    assert torch.equal(first.labels, again.labels)
    assert set(first.names) != set(other.names)


def test_pictures_are_drawn_without_replacement_and_only_they_are_read(counted):
    taken = counted.take(PREPROCESS, 8, seed=1)
    assert len(set(taken.names)) == len(taken) == 8
    assert [int(name) for name in taken.names] == taken.labels.tolist() == counted.pictures.read_so_far
    assert taken.labels.tolist() != sorted(taken.labels.tolist())


def test_fewer_pictures_are_the_first_of_more(counted):
    assert counted.take(PREPROCESS, 5).names == counted.take(PREPROCESS, 12).names[:5]


@pytest.mark.parametrize("images", [None, 20, 1000])
def test_all_are_taken_where_none_or_too_many_are_asked_for(counted, images):
    assert sorted(counted.take(PREPROCESS, images).labels.tolist()) == list(range(20))


@pytest.mark.parametrize(("images", "seed"), [(0, 0), (-3, 0), (4, -1)])
def test_numbers_that_are_too_small_are_refused(counted, images, seed):
    with pytest.raises(InputError, match="expected"):
        counted.take(PREPROCESS, images, seed=seed)
    assert counted.pictures.read_so_far == []


@pytest.mark.parametrize("after", [-1, 20, 21])
def test_some_pictures_must_be_left(counted, after):
    with pytest.raises(InputError, match=f"expected to leave out fewer than 20 pictures, got {after}"):
        counted.take(PREPROCESS, 4, after=after)


def test_progress_is_told_of_each_picture(counted):
    calls = []
    counted.take(PREPROCESS, 7, progress=lambda: calls.append(len(counted.pictures.read_so_far)))
    assert calls == [1, 2, 3, 4, 5, 6, 7]


def test_unreadable_pictures_among_many_are_listed_and_the_rest_go_on(tmp_path):
    for label, name in enumerate(["cat", "dog"]):
        for i in range(10):
            save(tmp_path / name / f"{i}.jpg", label)
    (tmp_path / "cat" / "3.jpg").write_bytes(b"not a picture")
    save_cut_off(tmp_path / "dog" / "5.jpg")
    dataset = find_dataset(tmp_path)
    calls = []
    taken = dataset.take(PREPROCESS, progress=lambda: calls.append(1))
    assert sorted(skipped.name for skipped in taken.skipped) == ["cat/3.jpg", "dog/5.jpg"]
    reasons = {skipped.name: skipped.reason for skipped in taken.skipped}
    assert "not an image" in reasons["cat/3.jpg"]
    assert "image file is truncated" in reasons["dog/5.jpg"]
    assert len(taken) == len(taken.pixels) == len(taken.labels) == 18
    assert len(calls) == 20
    for name, pixels, label in zip(taken.names, taken.pixels, taken.labels.tolist(), strict=True):
        assert label == ["cat", "dog"].index(name.partition("/")[0])
        assert (pixels.numpy() == PREPROCESS(tmp_path / name)).all()


def test_nothing_readable_is_refused(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.jpg").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"none of 1 pictures could be read; of the first, cat/1\.jpg: "):
        find_dataset(tmp_path).take(PREPROCESS)


def test_bundled_pictures_are_fresh():
    ours = {_STREAM}
    theirs = {getattr(recipe, name) for name in dir(recipe) if name.startswith("SEED_")}
    assert not ours & (theirs | {subject._STREAM})
    taken = find_dataset("drawn").take(Preprocess(size=(96, 96)), 3, seed=1)
    for name, pixels, label in zip(taken.names, taken.pixels, taken.labels.tolist(), strict=True):
        index, kind = name.split("-")
        drawn = draw(1, seed=(_STREAM, int(index)), kinds={kind: 1.0})
        assert np.array_equal(drawn.pixels[0], pixels.numpy())
        assert drawn.labels[0] == label


def test_bundled_pictures_have_all_kinds_of_grounds_equally():
    pictures = find_dataset("drawn").pictures
    kinds = [pictures.name(index).partition("-")[2] for index in range(len(pictures))]
    assert {kind: kinds.count(kind) for kind in KINDS} == dict.fromkeys(KINDS, len(pictures) // 4)


def test_the_bundled_model_knows_bundled_pictures(request):
    classifier = request.getfixturevalue("bundled")
    dataset = find_dataset("drawn")
    assert dataset.classnames == classifier.classnames == CLASSNAMES
    taken = dataset.take(classifier.preprocess, 200)
    with torch.no_grad():
        answers = classifier.undefended(taken.pixels.float() / 255).argmax(dim=1)
    assert (answers == taken.labels).float().mean() >= 0.96
