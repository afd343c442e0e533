"""Finished parts of an evaluation, kept by what they were made from, so that none is made twice."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import weakref
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
_DIGEST = "sha256"  # among a part's arrays
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

    identity: what all parts have in common; a folder belongs to one. alone: whether nobody else may write to
    the folder for as long as this object lives. Raises InputError for a folder of another identity, naming
    what differs, for one that is not empty and no evaluation's or that another process has alone, and where
    it cannot be made.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], *, alone: bool = False) -> None:
        self.folder = folder
        self._parts = folder / _PARTS
        _check(folder, identity)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / _RUN, json.dumps(identity, indent=1) + "\n")
            self._parts.mkdir(exist_ok=True)
            if alone:
                weakref.finalize(self, os.close, _locked(folder))
        except OSError as error:
            raise InputError(f"cannot write to {folder}: {error.strerror or error}") from error

    def has(self, key: str) -> bool:
        """Whether a part is finished."""
        return (self._parts / f"{key}.npz").exists()

    def get(self, key: str, make: Callable[[], Arrays]) -> Arrays:
        """A part: read if it is finished, else made and kept. A file that cannot be read is made anew."""
        path = self._parts / f"{key}.npz"
        try:
            return _read(path)
        except FileNotFoundError:
            pass
        except Exception:  # a damaged file is whatever its bytes say
            path.unlink(missing_ok=True)  # another run of this folder may be as far
        arrays = make()
        with written_aside(path) as file:
            np.savez_compressed(file, allow_pickle=False, **arrays, **{_DIGEST: _digest_of(arrays)})
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


def _locked(folder: Path) -> int:
    """A lock on a folder, which ends when this descriptor of it is closed, or its process."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise InputError(
            f"another evaluation is writing to {folder}: wait for it, or give another --out"
        ) from error
    return descriptor


def _read(path: Path) -> Arrays:
    """A part's arrays. Raises ValueError where they are not what was written, and whatever numpy does."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        found = dict(arrays)
    if not np.array_equal(found.pop(_DIGEST), _digest_of(found)):
        raise ValueError(f"{path} is damaged")
    return found


def _digest_of(arrays: Arrays) -> NDArray[np.uint8]:
    names = sorted(arrays)
    whole = digest({"names": names}, *(arrays[name] for name in names))
    return np.frombuffer(bytes.fromhex(whole), np.uint8)


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
