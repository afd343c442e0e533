"""Known data sets as mirrors and courses give them: one folder of pictures a class."""

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

    Attributes:
        places: Paths below the root, with {split} in those where each split has a folder of its own.
        lists: The file that names a split's pictures, if the class folders are of all splits. It is a
            path relative to the class folders, with {split} in it. Each of its lines is a picture's path
            below them.
        words: Turns a folder's name into words of a prompt.
        left_out: Folders that are no class.
    """

    places: tuple[str, ...]
    lists: str | None = None
    words: Callable[[str], str] = spaced
    left_out: Collection[str] = ()

    def find(self, root: Path, split: str) -> Path | None:
        """Returns the first of the places that exists and holds a folder.

        Args:
            root: The folder that the places are below.
            split: The split that stands for {split}.

        Returns:
            The folder of class folders; None if there is none.
        """
        for place in self.places:
            folder = root / place.format(split=split)
            if folder.is_dir() and any(path.is_dir() for path in folder.iterdir()):
                return folder
        return None

    def read(self, folder: Path, split: str) -> Contents:
        """Returns what a folder that was found holds of a split.

        Args:
            folder: What `find` returned.
            split: The split.

        Raises:
            InputError: As `read_folder` does, and if the split's list is missing, cannot be read, or
                names a picture that is not there.
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
