"""`python export/ray/batch.py IMAGES --artifact FILE --out FOLDER`: classifies pictures with Ray Data."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
import typer
from answers import Answer, NoAnswer, answers, load
from cluster import cluster, threads_of
from options import Artifact, NoiseKey, Sha256, Threads, WorkerCount
from pictures import Pictures, find
from ray.exceptions import RayError
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from clipfast.cli import main
from clipfast.errors import InputError
from clipfast.files import written_aside
from clipfast.runtime import sha256_of

# A batch that kills its worker again and again ends the run rather than go on for ever.
_RETRIES = 4

_err = Console(stderr=True)
app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)


class Classify:
    """A worker: loads the artifact once, then turns tables of `key` and `source` into tables of results.

    Raises ArtifactError and InputError as `answers.load` does.
    """

    def __init__(
        self, artifact: Path, sha256: str, threads: int, noise_key: Path | None, key_type: pa.DataType
    ) -> None:
        self._classifier = load(artifact, sha256=sha256, threads=threads, noise_key=noise_key)
        self._schema = schema(key_type)

    def __call__(self, table: pa.Table) -> pa.Table:
        """One row of results for each of N pictures, in their order."""
        results: list[Answer | NoAnswer | None] = [None] * len(table)
        pixels = {}
        for row, source in enumerate(table["source"].to_pylist()):
            try:
                pixels[row] = self._classifier.preprocess(source)
            except InputError as error:
                results[row] = error
        if pixels:
            answered = answers(self._classifier, np.stack(list(pixels.values())))
            for row, answer in zip(pixels, answered, strict=True):
                results[row] = answer
        rows = [
            {"key": key, **_columns(result)}
            for key, result in zip(table["key"].to_pylist(), results, strict=True)
        ]
        return pa.Table.from_pylist(rows, schema=self._schema)


def schema(key_type: pa.DataType) -> pa.Schema:
    """The columns of the results; all but the key are null where there is an error, and it where not."""
    columns = {
        "key": key_type,
        "label": pa.string(),
        "probability": pa.float32(),
        "drift": pa.float32(),
        "countered": pa.bool_(),
        "changed": pa.bool_(),
        "error": pa.string(),
    }
    return pa.schema(list(columns.items()))


def _columns(result: Answer | NoAnswer | None) -> dict[str, object]:
    if not isinstance(result, Answer):
        return {"error": str(result)}
    [(label, probability)] = result.top
    flags = {"countered": result.countered, "changed": result.changed}
    return {"label": label, "probability": probability, "drift": result.drift, **flags}


def classified(
    pictures: Pictures,
    artifact: Path,
    *,
    sha256: str,
    workers: int,
    batch: int,
    threads: int,
    noise_key: Path | None,
) -> Iterable[pa.Table]:
    """Tables of results in the order of the pictures, as they come; Ray has to run.

    A worker that dies is started anew and its batch classified again. Raises what Ray does where that
    happens to one batch again and again.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    results = pictures.read(batch).map_batches(
        Classify,
        fn_constructor_args=(
            artifact.resolve(),
            sha256,
            threads,
            noise_key and noise_key.resolve(),
            pictures.key_type,
        ),
        batch_size=batch,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
        ray_remote_args_fn=lambda: {"max_task_retries": _RETRIES},
    )
    return results.iter_batches(batch_size=None, batch_format="pyarrow")


def write(tables: Iterable[pa.Table], path: Path, *, rows: int, key_type: pa.DataType) -> Counter[str]:
    """Writes tables of results to a Parquet file, whole or not at all; shows how far it is.

    Returns the counts of images, countered, changed and errors. Raises RuntimeError where there are not as
    many results as there were pictures.
    """
    counts: Counter[str] = Counter()
    with written_aside(path) as file:
        with Progress(console=_err) as progress, pq.ParquetWriter(file, schema(key_type)) as writer:
            task = progress.add_task("classifying", total=rows)
            for table in tables:
                writer.write_table(table)
                counts["images"] += len(table)
                for name in ("countered", "changed"):
                    counts[name] += table[name].to_pylist().count(True)
                counts["errors"] += len(table) - table["error"].null_count
                progress.advance(task, len(table))
        if counts["images"] != rows:
            raise RuntimeError(f"expected {rows} results, got {counts['images']}: none are written")
    return counts


@app.command()
def _command(
    images: Annotated[Path, typer.Argument(help="A folder of pictures, or Parquet.", show_default=False)],
    artifact: Artifact,
    sha256: Sha256 = None,
    out: Annotated[Path, typer.Option(help="A folder; results.parquet is written into it.")] = Path(
        "results"
    ),
    workers: WorkerCount = 1,
    threads: Threads = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures classified at once.")] = 32,
    column: Annotated[str, typer.Option(help="Parquet's column of encoded pictures.")] = "image",
    key: Annotated[str, typer.Option(help="Parquet's column that names a picture.")] = "key",
    noise_key: NoiseKey = None,
) -> None:
    """Classifies pictures with the defence; a picture that cannot be read is a row with an error."""
    sha256 = sha256 or sha256_of(artifact)
    load(artifact, sha256=sha256, noise_key=noise_key)  # says what is wrong with it before Ray starts
    pictures = find(images, column=column, key=key)
    path = out / "results.parquet"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}") from error
    with cluster(workers + 1):
        tables = classified(
            pictures,
            artifact,
            sha256=sha256,
            workers=workers,
            batch=batch,
            threads=threads or threads_of(workers),
            noise_key=noise_key,
        )
        counts = write(tables, path, rows=pictures.rows, key_type=pictures.key_type)
    typer.echo(
        f"{path}: {counts['images']} images, {counts['countered']} countered, {counts['changed']} changed, "
        f"{counts['errors']} without an answer"
    )
    sys.exit(1 if counts["errors"] else 0)


if __name__ == "__main__":
    try:
        main(app)
    except RayError as error:
        _err.print(f"[bold red]error:[/] nothing is written: {escape(str(error))}", highlight=False)
        sys.exit(1)
