"""What OpenVINO's settings do to drift, gate and time: `python benchmarks/openvino_settings.py`, 3 minutes.

The bundled model's published settings, four fresh pictures in a file of batch 4, two threads, in turns: as
clipfast runs it (float32, without snippets), with snippets, and in the precision that OpenVINO chooses by
itself. Then the same of ViT-B/32 with random weights, which prove speed and rounding, never accuracy. Drift
is compared with the first's, and the gate's decisions on 400 pictures of the bundled model.

OpenVINO's bfloat16 keeps most of what is no product in float32 by itself. A node can be marked to be left as
it is (`DisablePrecisionConversion` in its runtime information), but the CPU plugin 2026.4.1 heeds no mark in
bfloat16: whatever is marked, the same nodes run in the same precisions. So there is no setting between.
"""

from __future__ import annotations

import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import openvino
import torch
from rich.console import Console
from rich.table import Table

from clipfast import DefendedClassifier
from clipfast.artifacts.metadata import Metadata
from clipfast.bench.scenario import make_tower
from clipfast.errors import UncalibratedWarning
from clipfast.exporters import export
from clipfast.inputs.arrays import draw_noise
from clipfast.inputs.noise import seeded_keys
from clipfast.measurement.interleave import interleaved
from clipfast.models.shapes import draw

BATCH, THREADS = 4, 2
DECIDED = 400  # pictures
OURS = {"INFERENCE_PRECISION_HINT": "f32", "SNIPPETS_MODE": "DISABLE"}
SETTINGS: dict[str, dict[str, Any]] = {
    "clipfast's": OURS,
    "with snippets": {"INFERENCE_PRECISION_HINT": "f32"},
    "its own precision": {"SNIPPETS_MODE": "DISABLE"},
}
THRESHOLDS = {"none": 0.0, "all": 1e9}


def classifiers() -> dict[str, DefendedClassifier]:
    """By their names."""
    tower = make_tower("ViT-B-32", torch.device("cpu"))
    names = [f"class {i}" for i in range(10)]
    return {
        "bundled": DefendedClassifier.bundled(preset="published"),
        "ViT-B/32": DefendedClassifier(tower.model, open_clip.get_tokenizer("ViT-B-32"), names),
    }


def requests_of(file: Path) -> list[openvino.InferRequest]:
    """The file under each of the settings."""
    core = openvino.Core()
    return [
        core.compile_model(file, "CPU", {"INFERENCE_NUM_THREADS": THREADS, **options}).create_infer_request()
        for options in SETTINGS.values()
    ]


def add_rows(table: Table, name: str, file: Path, metadata: Metadata) -> None:
    """A row for each of the settings."""
    size = metadata.preprocess.size[0]
    x = draw(BATCH, seed=(402, 0), size=size).pixels.astype(np.float32) / 255
    noise = draw_noise(seeded_keys(0, 0, BATCH), x.shape, metadata.config)
    requests = requests_of(file)
    feeds = {
        countered: {"pixels": x, "noise": noise, "tau_threshold": np.full(BATCH, threshold, np.float32)}
        for countered, threshold in THRESHOLDS.items()
    }
    seconds = interleaved(
        [partial(request.infer, feed) for request in requests for feed in feeds.values()], repeats=25
    )
    drifts = [request.infer(feeds["none"])["drift"].copy() for request in requests]
    for i, setting in enumerate(SETTINGS):
        off = np.abs(drifts[i] / drifts[0] - 1)
        times = (f"{1000 * seconds[2 * i + k]:.1f}" for k in range(2))
        table.add_row(name, setting, *times, f"{off.min():.1e} to {off.max():.1e}")


def decisions(file: Path, metadata: Metadata) -> list[float]:
    """For each of the settings, the share of pictures on which the gate decides as with the first."""
    size = metadata.preprocess.size[0]
    x = draw(DECIDED, seed=(402, 1), size=size).pixels.astype(np.float32) / 255
    noise = draw_noise(seeded_keys(0, 0, DECIDED), x.shape, metadata.config)
    threshold = np.full(BATCH, metadata.config.tau_threshold, np.float32)
    found = []
    for request in requests_of(file):
        countered = [
            request.infer(
                {"pixels": x[i : i + BATCH], "noise": noise[i : i + BATCH], "tau_threshold": threshold}
            )["countered"].astype(bool)
            for i in range(0, DECIDED, BATCH)
        ]
        found.append(np.concatenate(countered))
    return [float((one == found[0]).mean()) for one in found]


def main() -> None:
    """Measures and prints a table."""
    warnings.simplefilter("ignore", UncalibratedWarning)
    own = openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
    title = f"OpenVINO {openvino.__version__.split('-')[0]}, its own precision {own}, batch {BATCH}"
    equal: list[float] = []
    table = Table("model", "settings", "none countered, ms", "all, ms", "drift off by", title=title)
    with tempfile.TemporaryDirectory() as folder:
        for name, classifier in classifiers().items():
            file = Path(folder) / "lab.onnx"
            made = export(classifier, file, profile="lab", batch=BATCH, verify=False)
            add_rows(table, name, file, made.metadata)
            if name == "bundled":
                equal = decisions(file, made.metadata)
    console = Console(width=110)
    console.print(table)
    shares = (f"{setting} {100 * share:.2f} %" for setting, share in zip(SETTINGS, equal, strict=True))
    console.print(f"bundled model, {DECIDED} pictures, decided as by the first: {', '.join(shares)}")


if __name__ == "__main__":
    main()
