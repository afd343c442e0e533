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
    """Reads the classes and pictures below a folder.

    A class is called like its folder, put into words. If there is a file classnames.txt, it is called by
    its line there; the lines are in the sorted order of the folders. Hidden folders are left out.

    Args:
        root: The folder.
        words: Turns a folder's name into words of a prompt.
        left_out: Folders that are no class.

    Raises:
        InputError: If there are no class folders, if one holds no pictures, if the folders are splits and
            not classes, if classnames.txt cannot be read, or if its names are not as many as the folders.
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
