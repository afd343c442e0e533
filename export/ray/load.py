"""What the endpoint costs beside the bare runtime on the same pictures: `python export/ray/load.py OUT.json`.

ViT-B/32 with random weights, one worker, on an idle machine; some minutes. 0, 50 and 100 % of the pictures
are countered: smooth pictures drift, noise hardly does, and the threshold lies between. Throughput is that of
full batches, and of twice as many connections as a batch has pictures; latency alone is that of one picture
at a time. Each column runs once a round, in an order drawn anew.
"""

from __future__ import annotations

import http.client
import io
import json
import socket
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import open_clip
import torch
import typer
from answers import load
from cluster import threads_of
from PIL import Image
from processes import started, wait_for

from clipfast import DefendedClassifier
from clipfast.bench.environment import environment
from clipfast.bench.scenario import make_images, make_tower
from clipfast.errors import UncalibratedWarning
from clipfast.exporters import export
from clipfast.files import write_text
from clipfast.measurement.interleave import ratio, rounds
from clipfast.runtime import OnnxClassifier

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Picture:
    """An encoded picture, and whether the gate holds it back."""

    data: bytes
    countered: bool


@dataclass
class Column:
    """A way to have pictures classified, and the seconds that each picture took so far."""

    run: Callable[[Column], None]
    latencies: list[float] = field(default_factory=list)


def make_artifact(model: str, count: int, path: Path) -> tuple[list[Picture], list[Picture]]:
    """Exports a model; returns `count` pictures that pass its gate, and as many that are countered."""
    tower = make_tower(model, CPU)
    images = make_images(tower, 2 * count, count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UncalibratedWarning)
        names = [f"class {i}" for i in range(10)]
        classifier = DefendedClassifier(
            tower.model, open_clip.get_tokenizer(model), names, config=images.config
        )
        export(classifier, path, profile="serving", pixels="uint8", verify=False)
    pixels = (images.pixels * 255).round().byte().permute(0, 2, 3, 1).numpy()
    pictures = [Picture(png(row), bool(flag)) for row, flag in zip(pixels, images.countered, strict=True)]
    return [p for p in pictures if not p.countered], [p for p in pictures if p.countered]


def png(pixels: np.ndarray) -> bytes:
    """Pixels uint8 [H, W, 3] as a file."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def check(pictures: Sequence[Picture], countered: Sequence[bool]) -> None:
    """Raises RuntimeError where the gate did not decide as was meant: then there is no figure."""
    if [picture.countered for picture in pictures] != list(countered):
        raise RuntimeError(f"expected the gate to hold back others, got {countered}")


def bare(classifier: OnnxClassifier, pictures: Sequence[Picture], batch: int) -> Column:
    """Decodes and classifies one batch after the other."""

    def run(column: Column) -> None:
        for first in range(0, len(pictures), batch):
            part = pictures[first : first + batch]
            start = time.perf_counter()
            prediction = classifier.predict(classifier.preprocess.batch(picture.data for picture in part))
            column.latencies += [time.perf_counter() - start] * len(part)
            check(part, prediction.countered.tolist())

    return Column(run)


def served(port: int, pictures: Sequence[Picture], connections: int) -> Column:
    """Posts the pictures over some connections, each its next as soon as it has an answer."""

    def run(column: Column) -> None:
        waiting = iter(pictures)
        lock = threading.Lock()

        def client(_: int) -> None:
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
                while True:
                    with lock:
                        picture = next(waiting, None)
                    if picture is None:
                        return
                    start = time.perf_counter()
                    connection.request("POST", "/classify", picture.data, {"Content-Type": "image/png"})
                    response = connection.getresponse()
                    said = json.loads(response.read())
                    column.latencies.append(time.perf_counter() - start)
                    if response.status != 200:
                        raise RuntimeError(f"expected an answer, got {response.status}: {said}")
                    check([picture], [said["countered"]])

        with ThreadPoolExecutor(connections) as pool:
            list(pool.map(client, range(connections)))

    return Column(run)


def measured(columns: dict[str, Column], pictures: dict[str, int], count: int) -> dict[str, dict[str, Any]]:
    """Throughput in pictures a second, alone and over the bare runtime's; p50 and p99 in milliseconds."""
    work = {name: lambda column=column: column.run(column) for name, column in columns.items()}
    seconds = list(rounds(work, count))
    figures: dict[str, dict[str, Any]] = {}
    for name, column in columns.items():
        warm = column.latencies[pictures[name] :]  # without the round that warms up
        p50, p99 = np.percentile(warm, [50, 99]) * 1e3
        throughput = pictures[name] / statistics.median(row[name] for row in seconds)
        figures[name] = {"throughput": throughput, "p50": p50, "p99": p99}
    for served_by, beside in (("served", "bare"), ("served alone", "bare alone")):
        of_bare = ratio([row[beside] for row in seconds], [row[served_by] for row in seconds])
        figures[served_by]["throughput over bare"] = asdict(of_bare)
    return figures


def main(
    out: Annotated[Path, typer.Argument(help="The JSON file to write.", show_default=False)],
    model: Annotated[str, typer.Option(help="open_clip model, with random weights.")] = "ViT-B-32",
    count: Annotated[int, typer.Option("--rounds", min=1)] = 9,
    pictures: Annotated[int, typer.Option(min=2, help="A round has of each traffic.")] = 64,
    batch: Annotated[int, typer.Option(min=1)] = 8,
) -> None:
    """Measures, prints a table and writes it as JSON."""
    threads = threads_of(1)
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        path = Path(scratch) / "defended.onnx"
        passing, countered = make_artifact(model, pictures, path)
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            port = free.getsockname()[1]
        options = ["--artifact", path, "--port", port, "--batch", batch]
        with started("serve.py", *options, scratch=Path(scratch)) as server, warnings.catch_warnings():
            warnings.simplefilter("ignore", UncalibratedWarning)
            classifier = load(path, threads=threads)
            wait_for(lambda: server.poll() is not None or ready(port), "the endpoint", seconds=300)
            traffic = {}
            for share in (0.0, 0.5, 1.0):
                mixed = [picture for pair in zip(passing, countered, strict=True) for picture in pair]
                chosen = {0.0: passing, 0.5: mixed[:pictures], 1.0: countered}[share]
                few = chosen[: max(2, pictures // 4)]
                columns = {
                    "bare": bare(classifier, chosen, batch),
                    "served": served(port, chosen, 2 * batch),
                    "bare alone": bare(classifier, few, 1),
                    "served alone": served(port, few, 1),
                }
                sizes = {name: len(few if "alone" in name else chosen) for name in columns}
                traffic[f"{share:.0%} countered"] = figures = measured(columns, sizes, count)
                for name, row in figures.items():
                    print(f"{share:4.0%} {name:12}", json.dumps(row))
    found = {
        "environment": environment(CPU),
        "model": f"{model}, random weights",
        "batch": batch,
        "connections": 2 * batch,
        "threads": threads,
        "rounds": count,
        "pictures": pictures,
        "traffic": traffic,
    }
    write_text(out, json.dumps(found, indent=1) + "\n")


def ready(port: int) -> bool:
    """Whether the endpoint has a worker."""
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
    except OSError:
        return False


if __name__ == "__main__":
    typer.run(main)
