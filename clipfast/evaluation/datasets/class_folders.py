"""Known data sets as mirrors and courses hand them out: one folder of pictures a class."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from ...files import read_lines
from .class_words import spaced
from .dataset import Contents, Subset
from .folder import read_folder

__all__ = ["ClassFolders"]


@dataclass(frozen=True, kw_only=True)
class ClassFolders:
    """Where the class folders of a data set may lie, and what their names mean.

    places: paths below the root, with {split} where a split has a folder of its own. lists: beside the class
    folders of all splits, the file that names a split's pictures, a path below them in each line. words: from
    a folder's name to words of a prompt. left_out: folders that are no class.
    """

    places: tuple[str, ...]
    lists: str | None = None
    words: Callable[[str], str] = spaced
    left_out: Collection[str] = ()

    def find(self, root: Path, split: str) -> Path | None:
        """The first of the places that is there and holds a folder."""
        for place in self.places:
            folder = root / place.format(split=split)
            if folder.is_dir() and any(path.is_dir() for path in folder.iterdir()):
                return folder
        return None

    def read(self, folder: Path, split: str) -> Contents:
        """What a folder that was found holds of a split.

        Raises InputError as `read_folder` does, and for a list that is missing or names other pictures.
        """
        contents = read_folder(folder, words=self.words, left_out=self.left_out)
        if self.lists is None:
            return contents
        listed = folder / self.lists.format(split=split)
        if not listed.is_file():
            raise InputError(f"expected the split's list {listed}")
        names = {line.strip() for line in read_lines(listed)}
        pictures = contents.pictures
        found = {pictures.name(index): index for index in range(len(pictures))}
        if missing := sorted(names - set(found)):
            raise InputError(f"{listed} names {missing[0]}, which is not in {folder}")
        return Contents(contents.classnames, Subset(pictures, [found[name] for name in sorted(names)]))
