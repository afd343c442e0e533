"""Runs a benchmark: one process for each allocator and model, their figures gathered in one result."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..files import write_text
from ..measurement.interleave import ratio
from .environment import ALLOCATORS
from .plan import Job, jobs
from .scenario import Scenario

__all__ = ["exported_summary", "run_benchmark", "summary", "write_result"]


def run_benchmark(
    *,
    device: str,
    threads: int,
    quick: bool,
    exports: bool = False,
    progress: Callable[[str], None],
    save: Callable[[Any], None],
) -> dict[str, Any]:
    """Measures and returns the result; `save` gets it as it stands after each process.

    Raises RuntimeError where a process fails, with what it said.
    """
    result: dict[str, Any] = {"device": device, "environments": [], "rows": [], "peaks": []}
    for job in jobs(device, quick=quick, exports=exports):
        base = {
            "device": device,
            "threads": threads,
            "compile": job.compile,
            "exports": job.exports,
            "precisions": ["fp32", "bf16"] if device == "cpu" else ["fp32", "bf16", "fp16"],
            "scenarios": [scenario.to_dict() for scenario in job.scenarios],
        }
        last = {**base, "compile": False, "scenarios": [job.scenarios[-1].to_dict()]}
        workers = [base] if any(scenario.rounds for scenario in job.scenarios) else []
        workers += [{**last, "peak_of": column} for column in job.peaks]
        for worker in workers:
            try:
                _measure(job, worker, result, progress)
            finally:
                save(result)
    return result


def _measure(
    job: Job, worker: dict[str, Any], result: dict[str, Any], progress: Callable[[str], None]
) -> None:
    environment = {**os.environ, **ALLOCATORS[job.allocator], "OMP_NUM_THREADS": str(worker["threads"])}
    command = [sys.executable, "-m", "clipfast.bench.worker", json.dumps(worker)]
    rounds: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryFile("w+") as errors:
        popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True)
        with popen as process:
            assert process.stdout is not None
            for text in process.stdout:
                line = json.loads(text)
                kind = line.pop("kind")
                if kind == "environment":
                    result["environments"].append({"allocator": job.allocator, **line})
                elif kind == "peak":
                    result["peaks"].append({"allocator": job.allocator, **line})
                    progress(f"peak of {line['column']}: {line['bytes'] / 2**20:.0f} MiB")
                else:
                    key = json.dumps(line["scenario"])
                    rounds.setdefault(key, []).append(line["seconds"])
                    scenario = Scenario(**line["scenario"])
                    done = f"round {len(rounds[key])} of {scenario.rounds}"
                    progress(f"{scenario.name}, {job.allocator}: {done}")
        code = process.returncode
        errors.seek(0)
        said = errors.read()[-4000:]
    for key, measured in rounds.items():  # what was measured stands, whatever came after
        seconds = {name: [r[name] for r in measured] for name in sorted(measured[0])}
        result["rows"].append({"allocator": job.allocator, "scenario": json.loads(key), "seconds": seconds})
    if code:
        raise RuntimeError(f"a benchmark process ended with exit code {code}:\n{said}")


def summary(row: dict[str, Any]) -> dict[str, Any]:
    """A row's medians in milliseconds and its ratios.

    over_reference, over_early_return: how many times faster an engine is. over_floor: its time over that of
    undefended CLIP in the same precision, by the fastest form. Each ratio is the median over rounds.
    """
    seconds: dict[str, list[float]] = row["seconds"]
    medians = {name: statistics.median(values) * 1e3 for name, values in seconds.items()}
    engines: dict[str, Any] = {}
    for name in (n for n in seconds if n.startswith("engine")):
        precision = name.split()[1]
        floors = [n for n in medians if n.startswith("undefended") and n.split()[-1] == precision]
        floor = min(floors, key=medians.__getitem__)
        engines[name] = {
            "over_reference": ratio(seconds["reference"], seconds[name]),
            "over_early_return": ratio(seconds["reference early return"], seconds[name]),
            "over_floor": ratio(seconds[name], seconds[floor]),
            "over_eager_undefended": ratio(seconds[name], seconds["undefended eager fp32"]),
            "floor": floor,
        }
        same = f"reference {precision}"
        if same in seconds:
            engines[name]["over_reference_same_precision"] = ratio(seconds[same], seconds[name])
    return {"milliseconds": medians, "engines": engines}


def exported_summary(row: dict[str, Any]) -> dict[str, Any]:
    """A row's ratios, medians over its rounds: {figure: Ratio}, named as in `plan.EXPORTED_BARS`."""
    seconds: dict[str, list[float]] = row["seconds"]
    figures = {
        f"{name} over reference": ratio(seconds["reference"], seconds[name])
        for name in ("onnx", "openvino", "aotinductor")
        if name in seconds  # older results have fewer
    }
    figures["onnx time over undefended onnx"] = ratio(seconds["onnx"], seconds["undefended onnx"])
    if "openvino" in seconds:
        figures["openvino over onnx"] = ratio(seconds["onnx"], seconds["openvino"])
        if row["scenario"]["batch"] == 1:
            figures["openvino time over undefended eager, batch 1"] = ratio(
                seconds["openvino"], seconds["undefended eager"]
            )
    return figures


def write_result(result: dict[str, Any], path: Path) -> None:
    """Writes a result whole or not at all."""
    write_text(path, json.dumps(result, indent=1) + "\n")
