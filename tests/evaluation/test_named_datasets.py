from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest
import torch
from small_copies import COPIES, colour, flat, save, save_cut_off
from torchvision import datasets

from clipfast import InputError
from clipfast.evaluation.datasets import PAPER, dataset_names, find_dataset
from clipfast.evaluation.datasets.registry import DATASETS
from clipfast.evaluation.datasets.torchvision_reader import TorchvisionReader
from clipfast.preprocess import Preprocess

PREPROCESS = Preprocess(size=(24, 24))


def assert_coloured_by_label(taken, shift=0):
    means = taken.pixels.float().mean(dim=(2, 3))
    expected = torch.tensor([colour(label + shift) for label in taken.labels.tolist()]).float()
    torch.testing.assert_close(means, expected, atol=4, rtol=0)


def test_the_table_holds_the_papers_sixteen_and_others():
    assert len(PAPER) == 16
    assert "tiny-imagenet" not in PAPER
    assert dataset_names() == ("drawn", *DATASETS)
    assert set(COPIES) == set(DATASETS)


@pytest.mark.parametrize("name", DATASETS)
def test_a_copy_in_the_true_form_gives_its_classes_and_pictures(name, tmp_path, monkeypatch):
    copy = COPIES[name](tmp_path, monkeypatch)
    dataset = find_dataset(name, root=tmp_path)
    assert dataset.name == name
    assert dataset.classnames == copy.classnames
    assert dataset.templates == ("This is a photo of a {}.",)
    taken = dataset.take(PREPROCESS)
    assert taken.skipped == ()
    assert len(dataset) == len(taken) == len(set(taken.names)) == len(copy.labels)
    assert sorted(taken.labels.tolist()) == sorted(copy.labels)
    assert taken.pixels.dtype == torch.uint8
    assert taken.pixels.shape == (len(taken), 3, 24, 24)
    assert taken.labels.dtype == torch.int64
    assert_coloured_by_label(taken)


@pytest.mark.parametrize("name", ["cifar10", "imagenet", "dtd", "food101", "country211", "pcam"])
def test_another_split_is_read_when_asked_for(name, tmp_path, monkeypatch):
    COPIES[name](tmp_path, monkeypatch)
    taken = find_dataset(name, root=tmp_path, split="train").take(PREPROCESS)
    assert_coloured_by_label(taken, shift=1)


def test_names_are_paths_below_the_root_or_split_and_index(tmp_path, monkeypatch):
    for name in ("dtd", "oxford-iiit-pet"):
        COPIES[name](tmp_path, monkeypatch)
    paths = find_dataset("dtd", root=tmp_path).take(PREPROCESS).names
    assert set(paths) == {
        "dtd/dtd/images/banded/banded_0000.jpg",
        "dtd/dtd/images/polka-dotted/polka-dotted_0000.jpg",
    }
    indices = find_dataset("oxford-iiit-pet", root=tmp_path).take(PREPROCESS).names
    assert set(indices) == {"test/000000", "test/000001"}


def test_pictures_do_not_hang_on_the_order_of_the_disk(tmp_path, monkeypatch):
    COPIES["sun397"](tmp_path, monkeypatch)
    rglob = type(tmp_path).rglob
    names = []
    for turn in (1, -1):
        monkeypatch.setattr(
            type(tmp_path), "rglob", lambda self, pattern, turn=turn: sorted(rglob(self, pattern))[::turn]
        )
        names.append(find_dataset("sun397", root=tmp_path).take(PREPROCESS, 2).names)
    assert names[0] == names[1]


def test_pixels_are_those_of_clipfasts_own_preprocessing(tmp_path, monkeypatch):
    COPIES["cifar10"](tmp_path, monkeypatch)
    preprocess = Preprocess(size=(40, 40))
    taken = find_dataset("cifar10", root=tmp_path).take(preprocess)
    for pixels, label in zip(taken.pixels, taken.labels.tolist(), strict=True):
        assert (pixels.numpy() == preprocess(flat(label, 32))).all()


@pytest.mark.parametrize("spelling", ["CIFAR-10", "cifar_10", "Cifar 10"])
def test_names_may_be_spelled_as_papers_do(spelling, tmp_path, monkeypatch):
    COPIES["cifar10"](tmp_path, monkeypatch)
    assert find_dataset(spelling, root=tmp_path).name == "cifar10"


def test_a_name_wins_over_a_folder_and_a_path_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "dtd" / "striped" / "1.jpg", 0)
    with pytest.raises(InputError, match="dtd needs root"):
        find_dataset("dtd")
    assert find_dataset("./dtd").classnames == ("striped",)
    assert find_dataset((tmp_path / "dtd").relative_to(tmp_path)).classnames == ("striped",)


def test_a_name_that_is_no_folder_either_lists_the_names():
    with pytest.raises(InputError, match=r"'mnist'.*drawn, cifar10, .*tiny-imagenet"):
        find_dataset("mnist")


@pytest.mark.parametrize("name", DATASETS)
def test_missing_data_name_the_folder_and_how_to_come_by_it(name, tmp_path):
    root = tmp_path / "data"
    with pytest.raises(InputError) as caught:
        find_dataset(name, root=root)
    message = str(caught.value)
    assert DATASETS[name].title in message
    assert str(root / DATASETS[name].folder) in message
    by_hand = DATASETS[name].get is not None
    assert ("--download" in message) == (not by_hand)
    if by_hand:
        with pytest.raises(InputError, match=r"unpack|register"):
            find_dataset(name, root=root, download=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", DATASETS)
def test_an_empty_root_is_told_and_left_empty(name, tmp_path):
    with pytest.raises(InputError, match=DATASETS[name].title):
        find_dataset(name, root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_imagenet_without_its_archives_says_which_are_missing(tmp_path):
    with pytest.raises(InputError, match=r"ILSVRC2012_devkit_t12.tar.gz is not present.*; register at"):
        find_dataset("imagenet", root=tmp_path)


def test_a_root_is_found_from_home(tmp_path, monkeypatch):
    COPIES["dtd"](tmp_path / "data", monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(find_dataset("dtd", root=Path("~/data"))) == 2


def test_download_is_left_to_torchvision(tmp_path, monkeypatch):
    def download(self):
        assert self.root == str(tmp_path)
        COPIES["dtd"](tmp_path, monkeypatch)

    monkeypatch.setattr(datasets.DTD, "_download", download)
    assert len(find_dataset("dtd", root=tmp_path, download=True)) == 2


def test_a_download_that_fails_is_told(tmp_path, monkeypatch):
    def download(_):
        raise OSError("no route to host")

    monkeypatch.setattr(datasets.DTD, "_download", download)
    with pytest.raises(InputError, match=r"DTD could not be read from .*: no route to host"):
        find_dataset("dtd", root=tmp_path, download=True)


def test_data_that_are_there_need_no_download(tmp_path, monkeypatch):
    for name in ("stanford-cars", "imagenet", "tiny-imagenet"):
        COPIES[name](tmp_path, monkeypatch)
        assert len(find_dataset(name, root=tmp_path, download=True)) > 0


def test_files_that_are_not_the_true_ones_are_refused(tmp_path, monkeypatch):
    COPIES["cifar10"](tmp_path, monkeypatch)
    batch = tmp_path / "cifar-10-batches-py" / "test_batch"
    batch.write_bytes(batch.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"CIFAR-10 could not be read from .*corrupted"):
        find_dataset("cifar10", root=tmp_path)


def test_a_known_set_without_pictures_is_refused(tmp_path, monkeypatch):
    COPIES["sun397"](tmp_path, monkeypatch)
    for path in list(tmp_path.rglob("sun_*.jpg")):
        path.unlink()
    with pytest.raises(InputError, match="sun397: expected pictures, found none"):
        find_dataset("sun397", root=tmp_path)


def test_an_unknown_split_lists_those_that_there_are(tmp_path):
    with pytest.raises(InputError, match="dtd: expected a split of test, val, train, got 'dev'"):
        find_dataset("dtd", root=tmp_path, split="dev")


@pytest.mark.parametrize(("name", "package"), [("pcam", "h5py"), ("flowers102", "scipy")])
def test_a_missing_package_is_named_with_its_extra(name, package, tmp_path, monkeypatch):
    COPIES[name](tmp_path, monkeypatch)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"needs {package}.*clipfast\[eval\]"):
        find_dataset(name, root=tmp_path)


@pytest.mark.parametrize(
    "name", [name for name, row in DATASETS.items() if isinstance(row.read, TorchvisionReader)]
)
def test_torchvisions_classes_take_what_the_table_gives_them(name, tmp_path):
    row = DATASETS[name]
    reader = getattr(datasets, row.read.name)
    parameters = inspect.signature(reader).parameters
    if name != "imagenet":  # which hands its options on to ImageFolder
        assert ("loader" in parameters) == row.read.paths
        assert ("download" in parameters) == (row.read.downloads or name == "stanford-cars")
    for split in row.splits:  # a split that torchvision does not know would be a ValueError
        with pytest.raises((RuntimeError, FileNotFoundError)):
            row.read(tmp_path, split, False)


@pytest.mark.parametrize(
    ("file", "lines", "message"),
    [
        ("wnids.txt", ["n99999999"], "WordNet ids.*n99999999"),
        ("val/val_annotations.txt", ["val_0.JPEG\tn00001740\t0\t0\t1\t1"], "WordNet ids.*n00001740"),
        ("val/val_annotations.txt", ["val_0.JPEG n02124075"], "separated by tabs"),
    ],
)
def test_broken_files_of_tiny_imagenet_are_told(file, lines, message, tmp_path, monkeypatch):
    COPIES["tiny-imagenet"](tmp_path, monkeypatch)
    (tmp_path / "tiny-imagenet-200" / file).write_text("\n".join(lines))
    with pytest.raises(InputError, match=message):
        find_dataset("tiny-imagenet", root=tmp_path)


def test_a_broken_picture_that_torchvision_decodes_is_skipped(tmp_path, monkeypatch):
    COPIES["caltech101"](tmp_path, monkeypatch)
    save_cut_off(tmp_path / "caltech101" / "101_ObjectCategories" / "accordion" / "image_0002.jpg")
    taken = find_dataset("caltech101", root=tmp_path).take(PREPROCESS)
    assert len(taken) == 3
    assert [name for name, _ in taken.skipped] == ["all/000003"]
    assert "image file is truncated" in taken.skipped[0].reason
    assert_coloured_by_label(taken)
