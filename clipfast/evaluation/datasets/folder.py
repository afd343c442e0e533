"""Any folder in ImageFolder form: one folder of pictures a class."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from ...errors import InputError
from ...files import read_lines
from ...preprocess import image_files
from .class_words import spaced
from .dataset import Contents, Files

__all__ = ["CLASSNAMES_FILE", "read_folder"]

CLASSNAMES_FILE = "classnames.txt"

_SPLITS = {"train", "val", "valid", "validation", "test"}


def read_folder(
    root: Path, *, words: Callable[[str], str] = spaced, left_out: Collection[str] = ()
) -> Contents:
    """The classes and pictures below a folder.

    A class is called like its folder, put into words, or by its line in the file classnames.txt, which names
    them in the folders' sorted order. Hidden folders are left out, and those in left_out. Raises
    InputError for a folder without class folders, a class folder without pictures, class names that are
    not as many as the folders, and folders of splits instead of classes.
    """
    folders = sorted(
        path
        for path in root.iterdir()
        if path.is_dir() and not path.name.startswith(".") and path.name not in left_out
    )
    if not folders:
        raise InputError(f"expected one folder of pictures a class in {root}, found no folder")
    if all(folder.name in _SPLITS for folder in folders):
        found = ", ".join(folder.name for folder in folders)
        raise InputError(f"expected one folder a class in {root}, got splits: {found}; give one of them")
    classnames = tuple(words(folder.name) for folder in folders)
    listed = root / CLASSNAMES_FILE
    if listed.exists():
        classnames = tuple(read_lines(listed))
        if len(classnames) != len(folders):
            raise InputError(
                f"expected one class name a folder in {listed}, "
                f"got {len(classnames)} names for {len(folders)} folders"
            )
    labelled = [(path, label) for label, folder in enumerate(folders) for path in image_files([folder])]
    return Contents(classnames, Files(root, labelled))
