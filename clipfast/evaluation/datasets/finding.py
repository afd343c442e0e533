"""Finds a data set by its name or folder."""

from __future__ import annotations

import importlib
from pathlib import Path

from ...errors import InputError, names_extra
from .dataset import Dataset
from .drawn import read_drawn
from .folder import read_folder
from .registry import DATASETS, PAPER_TEMPLATES, KnownDataset

__all__ = ["dataset_names", "find_dataset"]

_DRAWN = "drawn"  # the renderer's name, beside the names in `DATASETS`


def dataset_names() -> tuple[str, ...]:
    """Returns the names that `find_dataset` knows."""
    return (_DRAWN, *DATASETS)


def find_dataset(
    source: str | Path, *, root: Path | None = None, download: bool = False, split: str | None = None
) -> Dataset:
    """Returns a data set with its class names and the paper's prompt, "This is a photo of a {}.".

    A name is preferred to a folder that is called like it. A Path is always a folder. "drawn" is
    clipfast's own renderer, with pictures that the bundled model has not seen.

    Args:
        source: One of `dataset_names()`, whatever its case, hyphens, underscores and spaces; or a folder
            with one folder of pictures a class, see `read_folder`.
        root: The folder that a named data set lies in, in the layout of torchvision's class, or for some
            of them as class folders. "drawn" and folders take none.
        download: Whether torchvision may download a named data set to `root`.
        split: The split of a named data set; None for the first that it has. For the paper's data sets
            that is the one that the paper evaluates.

    Raises:
        InputError: If the name or split is not known, if `root` is missing, if the data are missing or
            broken, or if the source does not take an option.
        ModuleNotFoundError: If a package that reads the data set is not installed; names the extra that
            has it.
    """
    if isinstance(source, str):
        known = {_plain(name): name for name in dataset_names()}
        name = known.get(_plain(source))
        if name in DATASETS:
            return _from_registry(name, DATASETS[name], root, download, split)
        if name == _DRAWN:
            _refuse_options(name, root, download, split)
            contents = read_drawn()
            return Dataset(name=name, templates=PAPER_TEMPLATES, **contents._asdict())
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise InputError(f"no data set or folder {str(source)!r}; names known: {', '.join(dataset_names())}")
    _refuse_options(f"the folder {folder}", root, download, split)
    return Dataset(name=folder.resolve().name, templates=PAPER_TEMPLATES, **read_folder(folder)._asdict())


def _from_registry(
    name: str, row: KnownDataset, root: Path | None, download: bool, split: str | None
) -> Dataset:
    if root is None:
        raise InputError(f"{name} needs root (--root), the folder that holds {row.folder}")
    split = row.splits[0] if split is None else split
    if split not in row.splits:
        raise InputError(f"{name}: expected a split of {', '.join(row.splits)}, got {split!r}")
    root = Path(root).expanduser()
    downloadable = row.get is None
    if not (root / row.folder).exists():
        if row.class_folders is not None and (folder := row.class_folders.find(root, split)) is not None:
            contents = row.class_folders.read(folder, split)
            return Dataset(name=name, templates=PAPER_TEMPLATES, **contents._asdict())
        if not (download and downloadable):
            raise InputError(_missing(row, root, split))
    try:
        if row.needs is not None:
            importlib.import_module(row.needs)
        contents = row.read(root, split, download)
    except ModuleNotFoundError as error:
        raise names_extra(row.title, error) from error
    except Exception as error:  # readers of broken files may raise anything
        reason = str(error).rstrip(".") if downloadable else f"{str(error).rstrip('.')}; {row.get}"
        raise InputError(f"{row.title} could not be read from {root / row.folder}: {reason}") from error
    return Dataset(name=name, templates=PAPER_TEMPLATES, **contents._asdict())


def _missing(row: KnownDataset, root: Path, split: str) -> str:
    how = "download=True (--download) downloads it" if row.get is None else row.get
    if row.class_folders is not None:
        places = (str(root / place.format(split=split)) for place in row.class_folders.places)
        how = f"or class folders in {' or '.join(places)}; {how}"
    return f"{row.title} was not found: expected {root / row.folder}; {how}"


def _refuse_options(what: str, root: Path | None, download: bool, split: str | None) -> None:
    given = {"root": root is not None, "download": download, "split": split is not None}
    if refused := [option for option, is_given in given.items() if is_given]:
        raise InputError(f"{what} takes no {', '.join(refused)}")


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")
