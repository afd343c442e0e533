"""The files that make up an export, itself and its weights, and the checks before they are loaded."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ArtifactError
from .onnx_file import read_onnx

__all__ = ["as_checked", "parts_of", "sha256_of"]

_BLOCK = 1 << 20  # bytes


@contextmanager
def as_checked(path: Path, sha256: str | None = None) -> Iterator[Path]:
    """Checks an exported file, and gives the path from which a runtime may load it.

    With a digest, the path is that of a private copy. The copy's bytes are digested as they are copied,
    so that nobody can change the file in between. The copy is deleted when the context ends.

    Args:
        path: The exported file.
        sha256: The digest that the file must have, as `sha256_of` returns it; case and surrounding spaces
            do not matter. None checks no digest.

    Yields:
        `path` itself, or with a digest the path of the copy.

    Raises:
        ArtifactError: If the file or one with its weights is missing, empty or unreadable; it has another
            digest; or an ONNX file is truncated, is of another format, draws its noise from a seed that
            is stored in it, or names weights that lie outside its folder or behind a link.
    """
    if sha256 is None:
        parts_of(path)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="clipfast-") as folder:
        digest, parts = hashlib.sha256(), parts_of(path)
        copies = [Path(folder) / part.relative_to(path.parent) for part in parts]
        for part, copy in zip(parts, copies, strict=True):
            copy.parent.mkdir(parents=True, exist_ok=True)
            with copy.open("wb") as copied:
                for block in _blocks(part):
                    digest.update(block)
                    copied.write(block)
        if digest.hexdigest() != sha256.strip().lower():
            raise ArtifactError(f"{path}: expected the SHA-256 {sha256.strip()}, got {digest.hexdigest()}")
        parts_of(copies[0])  # the copy is checked too: the file may have changed while it was copied
        yield copies[0]


def parts_of(path: Path) -> list[Path]:
    """Returns an exported file, followed by the files that hold its weights, sorted by name.

    Raises:
        ArtifactError: As for `as_checked`, except for the digest.
    """
    _check_readable(path)
    if path.suffix != ".onnx":
        return [path]
    file = read_onnx(path)
    if file.seeded:
        raise ArtifactError(
            f"{path}: it draws its noise from a seed that is in the file, and so the same in every session"
        )
    return [path, *(_beside(path, location) for location in sorted(file.locations))]


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 over the files of an export, one after the other, as 64 hexadecimal digits.

    Raises:
        ArtifactError: As for `as_checked`, except for the digest.
    """
    digest = hashlib.sha256()
    for part in parts_of(path):
        for block in _blocks(part):
            digest.update(block)
    return digest.hexdigest()


def _beside(path: Path, location: str) -> Path:
    """The file that an ONNX file names as that of its weights."""
    named, folder = Path(location), path.parent
    steps = [folder.joinpath(*named.parts[: i + 1]) for i in range(len(named.parts))]
    if not steps or named.is_absolute() or ".." in named.parts or any(step.is_symlink() for step in steps):
        raise ArtifactError(
            f"{path}: expected its weights in a file of its folder that is no link, it names "
            f"{location!r:.200}"
        )
    _check_readable(steps[-1])
    return steps[-1]


def _check_readable(path: Path) -> None:
    """Raises ArtifactError for a file that is missing, empty or unreadable."""
    if not next(_blocks(path), b""):
        raise ArtifactError(f"{path}: expected an exported file, got zero bytes")


def _blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error
