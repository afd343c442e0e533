"""A C++ program's time beside that of Python's runtime, on the same files, in turns.

    python export/cpp/latency.py build/clipfast-classify [--model ViT-B-32] [--threads 2] [--rounds 30]
    python export/cpp/latency.py shipped/clipfast-edge

Exports the bundled model, or an open_clip model with random weights (which prove speed, never accuracy),
once so that no image is countered and once so that all are. Each round asks both for the same images, in
an order drawn anew; what is compared is the time of one `predict`, images decoded and files loaded before.
Prints the medians of the paired ratios. A package runs its own code: it was made here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from clipfast import DefendedClassifier
from clipfast.artifacts.formats import FORMATS
from clipfast.bench.environment import environment
from clipfast.bench.scenario import make_tower
from clipfast.config import CounterattackConfig
from clipfast.errors import UncalibratedWarning
from clipfast.exporters import export
from clipfast.measurement.interleave import ratio, rounds
from clipfast.runtime import load_artifact

FILES = {"clipfast-classify": FORMATS["aotinductor"], "clipfast-edge": FORMATS["onnx"]}  # by program
THRESHOLDS = {"none": 0.0, "all": 1e9}


def main() -> None:
    """Reads the command line, measures and prints a table."""
    parser = argparse.ArgumentParser(description="Compare the C++ program's latency with Python's.")
    parser.add_argument("program", type=Path, help="clipfast-classify or clipfast-edge")
    parser.add_argument("--model", help="an open_clip name, with random weights; default: the bundled model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--batches", default="1,8", help="how many images are asked for at a time")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore", UncalibratedWarning)
    console = Console()
    title = f"{given.model or 'bundled model'}, {given.threads} threads, {given.rounds} rounds"
    table = Table("batch", "countered", "C++ / Python", "quartiles", "C++ ms", "Python ms", title=title)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for countered in THRESHOLDS:
            file = folder / f"{countered}{FILES[given.program.name].suffix}"
            made = classifier(given.model, countered)
            export(made, file, format=FILES[given.program.name].name, verify=False)
            for batch in map(int, given.batches.split(",")):
                table.add_row(str(batch), countered, *figures(given, file, folder, batch, countered))
    console.print(table)
    console.print_json(json.dumps(environment(torch.device("cpu"))))


def classifier(model: str | None, countered: str) -> DefendedClassifier:
    """A classifier whose threshold has none or all of the images countered."""
    threshold = THRESHOLDS[countered]
    if model is None:
        bundled = DefendedClassifier.bundled(preset="published")
        config = replace(bundled.config, tau_threshold=threshold, calibrated_for=None)
        return DefendedClassifier.bundled(config=config)
    tower = make_tower(model, torch.device("cpu"))
    names = [f"class {i}" for i in range(10)]
    config = CounterattackConfig(pass_through="clean", tau_threshold=threshold)
    return DefendedClassifier(tower.model, open_clip.get_tokenizer(model), names, config=config)


def figures(given: argparse.Namespace, file: Path, folder: Path, batch: int, countered: str) -> list[str]:
    """The table's columns for a batch of pictures."""
    program = FILES[given.program.name].is_program
    options = {"trust": True} if program else {"runtime": "openvino", "threads": given.threads}
    python = load_artifact(file, **options)
    height, width = python.image_size
    noise = np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
    files = [folder / f"{height}x{width}-{i}.png" for i in range(batch)]
    for picture, pixels in zip(files, noise, strict=True):
        Image.fromarray(pixels).save(picture)
    pixels = python.preprocess.batch(files)
    command = [given.program, *files, "--artifact", file, "--bench", "--threads", str(given.threads)]
    command += ["--trust"] if program else []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        cpp = asker(process, countered=batch if countered == "all" else 0)
        columns: dict[str, Callable[[], object]] = {"cpp": cpp, "python": lambda: python.predict(pixels)}
        seconds = list(rounds(columns, given.rounds))
        process.communicate()
    times = {name: [row[name] for row in seconds] for name in columns}
    found = ratio(times["cpp"], times["python"])
    milliseconds = [f"{1000 * float(np.median(times[name])):.1f}" for name in ("cpp", "python")]
    return [f"{found.median:.3f}", f"{found.low:.3f} to {found.high:.3f}", *milliseconds]


def asker(process: subprocess.Popen[str], *, countered: int) -> Callable[[], None]:
    """One answer of the C++ program; raises RuntimeError where another number of images was countered.

    A line through a pipe and back is part of the time: some tens of microseconds.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    ask, told = process.stdin, process.stdout

    def answer() -> None:
        ask.write("\n")
        ask.flush()
        report = json.loads(told.readline() or "{}")
        if report.get("countered") != countered:
            raise RuntimeError(f"expected {countered} countered images of the C++ program, got {report}")

    return answer


if __name__ == "__main__":
    main()
