"""Pictures to classify in bulk: a folder of them, or a column of Parquet files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import ray.data

from clipfast.errors import InputError
from clipfast.preprocess import image_files

__all__ = ["Pictures", "find"]

# Ray keeps books of every block: few enough of them for a million pictures.
_MAX_BLOCKS = 1000


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Where pictures are, before any is read.

    files: pictures, or Parquet files. keys: what the pictures are called, where they are files. columns: of
    the Parquet files, the names of those with the keys and with the encoded pictures. key_type: of a key.
    """

    files: list[Path]
    keys: list[str]
    columns: tuple[str, str] | None
    key_type: pa.DataType
    rows: int

    def read(self, batch: int) -> ray.data.Dataset:
        """A data set of `key` and `source`, a picture's path or its bytes, in order; Ray has to run.

        batch: the pictures that a block has at least.
        """
        blocks = min(-(-self.rows // batch), _MAX_BLOCKS)
        names = list(map(str, self.files))
        if self.columns is None:
            return ray.data.from_arrow(pa.table({"key": self.keys, "source": names})).repartition(blocks)
        columns: dict[str, str] = dict(zip(self.columns, ("key", "source"), strict=True))
        return ray.data.read_parquet(names, columns=list(columns), override_num_blocks=blocks).rename_columns(
            columns
        )


def find(images: Path, *, column: str, key: str) -> Pictures:
    """The pictures of a folder and those below it, one picture, or the rows of one or more Parquet files.

    column, key: the columns of Parquet files with the encoded pictures (binary) and their names. Raises
    InputError where there are none, where a folder holds both pictures and Parquet, and for Parquet that
    cannot be read or whose columns are not these.
    """
    parquet = _parquet_files(images)
    if not parquet:
        files = list(image_files([images]))
        keys = [str(file.relative_to(images)) if images.is_dir() else file.name for file in files]
        return Pictures(files=files, keys=keys, columns=None, key_type=pa.string(), rows=len(files))
    try:
        rows = pyarrow.dataset.dataset(parquet, format="parquet")
        types = {field.name: field.type for field in rows.schema}
        count = rows.count_rows()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"cannot read {images} as Parquet: {error}") from error
    if column == key or not {column, key} <= types.keys():
        raise InputError(f"expected columns {key!r} and {column!r} in {images}, got {sorted(types)}")
    if types[column] not in (pa.binary(), pa.large_binary()):
        raise InputError(f"expected encoded pictures (binary) in column {column!r}, got {types[column]}")
    if not count:
        raise InputError(f"expected pictures in {images}, found no row")
    return Pictures(files=parquet, keys=[], columns=(key, column), key_type=types[key], rows=count)


def _parquet_files(images: Path) -> list[Path]:
    if not images.is_dir():
        return [images] if images.suffix == ".parquet" and images.exists() else []
    found = sorted(images.rglob("*.parquet"))
    if found:
        try:
            picture = next(image_files([images]))
        except InputError:
            return found
        raise InputError(f"expected pictures or Parquet in {images}, found {found[0]} and {picture}")
    return found
