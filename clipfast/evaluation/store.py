"""Finished parts of an evaluation, kept by what they were made from, so that none is made twice."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..files import UNFINISHED, write_text, written_aside

__all__ = ["Store", "check_same", "digest"]

Arrays = dict[str, NDArray[Any]]

_RUN = "run.json"
_PARTS = "parts"


def digest(description: Mapping[str, Any], *arrays: NDArray[Any]) -> str:
    """SHA-256 of a description, as JSON, and of arrays with their shapes: 64 hexadecimal digits."""
    whole = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for array in arrays:
        whole.update(f"{array.dtype.str} {array.shape} ".encode())
        whole.update(np.ascontiguousarray(array).data)
    return whole.hexdigest()


class Store:
    """A folder of parts, each an .npz file that is there whole or not at all.

    identity: what all parts have in common; a folder belongs to one. Raises InputError for a folder of
    another identity, naming what differs, for one that is not empty and no evaluation's, and where it cannot
    be made.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self._parts = folder / _PARTS
        _check(folder, identity)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / _RUN, json.dumps(identity, indent=1) + "\n")
            self._parts.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write to {folder}: {error.strerror or error}") from error

    def has(self, key: str) -> bool:
        """Whether a part is finished."""
        return (self._parts / f"{key}.npz").exists()

    def get(self, key: str, make: Callable[[], Arrays]) -> Arrays:
        """A part: read if it is finished, else made and kept. A file that cannot be read is made anew."""
        path = self._parts / f"{key}.npz"
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
            path.unlink(missing_ok=True)  # another run of this folder may be as far
        arrays = make()
        with written_aside(path) as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        return arrays

    def take_from(self, folders: Iterable[Path]) -> int:
        """Copies the finished parts of other folders, which `check_same` let pass; how many were new."""
        taken = 0
        for folder in folders:
            for part in sorted((folder / _PARTS).glob("*.npz")):
                if not self.has(part.stem):
                    with written_aside(self._parts / part.name) as file, part.open("rb") as source:
                        shutil.copyfileobj(source, file)
                    taken += 1
        return taken


def check_same(folder: Path, identity: Mapping[str, Any]) -> None:
    """Raises InputError for a folder that is no evaluation's, or that of another identity."""
    if not (folder / _RUN).is_file():
        raise InputError(f"expected the folder of an evaluation, got {folder}: it has no {_RUN}")
    _check(folder, identity)


def _check(folder: Path, identity: Mapping[str, Any]) -> None:
    """Raises InputError unless a folder is new, empty, or of this identity."""
    # Listed before it is read: another run may start in it meanwhile.
    foreign = folder.exists() and (
        not folder.is_dir() or any(f.suffix != UNFINISHED for f in folder.iterdir())
    )
    try:
        known = json.loads((folder / _RUN).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if foreign:
            raise InputError(f"expected a new or empty folder, or an evaluation's, got {folder}") from None
        return
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {folder / _RUN}: {error}") from error
    wanted = json.loads(json.dumps(identity))
    if not isinstance(known, dict) or known != wanted:
        said = known if isinstance(known, dict) else {}
        differing = sorted(key for key in {*said, *wanted} if said.get(key) != wanted.get(key))
        raise InputError(
            f"{folder} is another run's: it differs in {', '.join(differing) or 'everything'}; "
            "give another --out"
        )
