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

Arrays = dict[str, NDArray[Any]]  # a part, by the names of its arrays

_RUN = "run.json"
_DIGEST = "sha256"  # the name of a part's digest among its arrays
_PARTS = "parts"


def digest(description: Mapping[str, Any], *arrays: NDArray[Any]) -> str:
    """Returns the SHA-256 of a description and of arrays, as 64 hexadecimal digits.

    Args:
        description: Values that JSON can hold; the order of keys does not count.
        *arrays: Arrays, which count with their shapes and dtypes.
    """
    whole = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for array in arrays:
        whole.update(f"{array.dtype.str} {array.shape} ".encode())
        whole.update(np.ascontiguousarray(array).data)
    return whole.hexdigest()


class Store:
    """A folder of parts, each an .npz file that is there whole or not at all.

    Args:
        folder: The folder, which is made if there is none.
        identity: What all parts have in common, as JSON values; a folder belongs to one identity.
        alone: Whether the folder is locked, for as long as this object lives, against other stores that
            ask for the same lock.

    Attributes:
        folder: The folder.

    Raises:
        InputError: If the folder has another identity, naming what differs; if it is not empty and no
            evaluation's; if it is to be locked and another store holds the lock; or if it cannot be read
            or written.
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
        """Returns whether a part is finished."""
        return (self._parts / f"{key}.npz").exists()

    def get(self, key: str, make: Callable[[], Arrays]) -> Arrays:
        """Returns a part: read if it is finished, else made and kept.

        A file that cannot be read, or that is damaged, is made anew.

        Args:
            key: The part's name, as of `digest`.
            make: Makes the part.

        Raises:
            OSError: If the part cannot be written.
        """
        path = self._parts / f"{key}.npz"
        try:
            return _read(path)
        except FileNotFoundError:
            pass
        except Exception:  # a damaged file may make numpy raise anything
            path.unlink(missing_ok=True)  # another run in this folder may have removed it
        arrays = make()
        with written_aside(path) as file:
            np.savez_compressed(file, allow_pickle=False, **arrays, **{_DIGEST: _digest_of(arrays)})
        return arrays

    def take_from(self, folders: Iterable[Path]) -> int:
        """Copies the finished parts of other folders, which `check_same` let pass.

        Args:
            folders: The other folders.

        Returns:
            How many parts were new.

        Raises:
            OSError: If a part cannot be read or written.
        """
        taken = 0
        for folder in folders:
            for part in sorted((folder / _PARTS).glob("*.npz")):
                if not self.has(part.stem):
                    with written_aside(self._parts / part.name) as file, part.open("rb") as source:
                        shutil.copyfileobj(source, file)
                    taken += 1
        return taken


def _locked(folder: Path) -> int:
    """Locks a folder until the descriptor that is returned is closed, or its process ends."""
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
    """Reads a part's arrays. Raises ValueError if they are damaged, and whatever numpy does."""
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
    """Checks that a folder is an evaluation's, and of this identity.

    Args:
        folder: The folder.
        identity: What all parts have in common, as JSON values.

    Raises:
        InputError: If it is no evaluation's, or has another identity.
    """
    if not (folder / _RUN).is_file():
        raise InputError(f"expected the folder of an evaluation, got {folder}: it has no {_RUN}")
    _check(folder, identity)


def _check(folder: Path, identity: Mapping[str, Any]) -> None:
    """Raises InputError unless a folder is new, empty, or of this identity."""
    # The folder is listed before its run file is read, because another run may start in it meanwhile.
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
