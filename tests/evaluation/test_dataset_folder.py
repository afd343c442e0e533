from __future__ import annotations

from pathlib import Path

import pytest
from small_copies import save

from clipfast import InputError
from clipfast.evaluation.datasets import find_dataset
from clipfast.preprocess import Preprocess

PREPROCESS = Preprocess(size=(24, 24))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "birds"
    for label, name in enumerate(["great_tit", "robin", "wren"]):
        save(root / name / "1.jpg", label)
    save(root / "robin" / "more" / "2.jpeg", 1)
    (root / "robin" / "notes.md").write_text("not a picture")
    return root


def test_each_folder_is_a_class(folder):
    dataset = find_dataset(folder)
    assert dataset.name == "birds"
    assert dataset.classnames == ("great tit", "robin", "wren")
    assert dataset.templates == ("This is a photo of a {}.",)
    taken = dataset.take(PREPROCESS)
    expected = {"great_tit/1.jpg": 0, "robin/1.jpg": 1, "robin/more/2.jpeg": 1, "wren/1.jpg": 2}
    assert dict(zip(taken.names, taken.labels.tolist(), strict=True)) == expected
    for name, pixels in zip(taken.names, taken.pixels, strict=True):
        assert (pixels.numpy() == PREPROCESS(folder / name)).all()


def test_a_folder_may_be_given_as_text(folder):
    assert find_dataset(str(folder)).classnames == find_dataset(folder).classnames


def test_classnames_txt_names_the_classes_in_sorted_order(folder):
    (folder / "classnames.txt").write_text("Parus major\nrobin, the bird\n\nwren\n")
    dataset = find_dataset(folder)
    assert dataset.classnames == ("Parus major", "robin, the bird", "wren")
    assert len(dataset) == 4


@pytest.mark.parametrize("names", ["great tit\nrobin\n", "great tit\nrobin\nwren\nwagtail\n", ""])
def test_class_names_that_do_not_match_the_folders_are_refused(folder, names):
    (folder / "classnames.txt").write_text(names)
    got = len(names.splitlines())
    with pytest.raises(InputError, match=rf"classnames\.txt, got {got} names for 3 folders"):
        find_dataset(folder)


def test_class_names_that_cannot_be_read_are_refused(folder):
    (folder / "classnames.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"cannot read .*classnames\.txt"):
        find_dataset(folder)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="one folder of pictures a class"):
        find_dataset(tmp_path)
    save(tmp_path / "loose.jpg", 0)
    with pytest.raises(InputError, match="one folder of pictures a class"):
        find_dataset(tmp_path)


def test_a_class_folder_without_pictures_is_refused(folder):
    (folder / "swift").mkdir()
    (folder / "swift" / "readme.txt").write_text("to come")
    with pytest.raises(InputError, match=r"image files in the folder .*swift"):
        find_dataset(folder)


def test_hidden_folders_are_no_classes(folder):
    (folder / ".thumbnails").mkdir()
    assert find_dataset(folder).classnames == ("great tit", "robin", "wren")


def test_folders_of_splits_are_no_classes(tmp_path, folder):
    folder.rename(tmp_path / "val")
    with pytest.raises(InputError, match="got splits: val; give one of them"):
        find_dataset(tmp_path)
    assert len(find_dataset(tmp_path / "val")) == 4


def test_a_class_may_be_called_like_a_split(folder):
    save(folder / "test" / "1.jpg", 3)
    assert find_dataset(folder).classnames == ("great tit", "robin", "test", "wren")


def test_a_folder_is_found_from_home_and_from_inside(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert len(find_dataset("~/birds")) == 4
    monkeypatch.chdir(folder)
    assert find_dataset(".").name == "birds"


@pytest.mark.parametrize(
    ("options", "refused"),
    [({"root": Path()}, "root"), ({"download": True}, "download"), ({"split": "val"}, "split")],
)
def test_folders_and_the_renderer_take_no_options(folder, options, refused):
    for source in (folder, "drawn"):
        with pytest.raises(InputError, match=f"takes no {refused}"):
            find_dataset(source, **options)


def test_a_path_that_is_no_folder_is_refused(folder):
    for path in (folder / "nothing", folder / "wren" / "1.jpg"):
        with pytest.raises(InputError, match="no data set or folder"):
            find_dataset(path)
