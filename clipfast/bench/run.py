"""Runs a benchmark: one process for each regime and model, their figures gathered in one result."""

from __future__ import annotations

import contextlib
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
from .busy import one_core_busy
from .environment import REGIMES
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
    """Measures, and returns the result.

    Args:
        device: "cpu", or a GPU.
        threads: How many threads torch and the runtimes use.
        quick: Whether a few scenarios are enough.
        exports: Whether exported files are measured in place of the engine.
        progress: Called with a line of text after each round and each measurement of peak memory.
        save: Called with the result as it stands after each process, failed ones included.

    Raises:
        RuntimeError: If a process fails, with the end of its error output.
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
    regime = REGIMES[job.regime]
    environment = {**os.environ, **regime.variables, "OMP_NUM_THREADS": str(worker["threads"])}
    command = [sys.executable, "-m", "clipfast.bench.worker", json.dumps(worker)]
    rounds: dict[str, list[dict[str, float]]] = {}
    busy = one_core_busy() if regime.busy else contextlib.nullcontext()
    with tempfile.TemporaryFile("w+") as errors, busy:
        popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True)
        with popen as process:
            assert process.stdout is not None
            for text in process.stdout:
                line = json.loads(text)
                kind = line.pop("kind")
                if kind == "environment":
                    result["environments"].append({"regime": job.regime, **line})
                elif kind == "peak":
                    result["peaks"].append({"regime": job.regime, **line})
                    progress(f"peak of {line['column']}: {line['bytes'] / 2**20:.0f} MiB")
                else:
                    key = json.dumps(line["scenario"])
                    rounds.setdefault(key, []).append(line["seconds"])
                    scenario = Scenario(**line["scenario"])
                    done = f"round {len(rounds[key])} of {scenario.rounds}"
                    progress(f"{scenario.name}, {job.regime}: {done}")
        code = process.returncode
        errors.seek(0)
        said = errors.read()[-4000:]
    for key, measured in rounds.items():  # what was measured is kept, even if the process failed later
        seconds = {name: [r[name] for r in measured] for name in sorted(measured[0])}
        result["rows"].append({"regime": job.regime, "scenario": json.loads(key), "seconds": seconds})
    if code:
        raise RuntimeError(f"a benchmark process ended with exit code {code}:\n{said}")


def summary(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row's medians in milliseconds and its ratios.

    Args:
        row: One of a result's rows, of a benchmark of the engine.

    Returns:
        The medians by column under "milliseconds", and the ratios of each engine under "engines". Each
        ratio is the median over rounds, with its quartiles. "over_reference" and "over_early_return" are
        how many times faster the engine is; "over_reference_same_precision" too, if that reference was
        measured. "over_floor" is its time over that of undefended CLIP in the same precision, by the
        fastest form, which "floor" names. "over_eager_undefended" is its time over that of eager
        undefended CLIP in float32.
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
    """Returns a row's ratios, medians over its rounds with quartiles, named as in `plan.EXPORTED_BARS`.

    Args:
        row: One of a result's rows, of a benchmark of exported files.
    """
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
    """Writes a result as JSON, whole or not at all.

    Args:
        result: What `run_benchmark` returned.
        path: The file to write.

    Raises:
        InputError: If the file cannot be written.
    """
    write_text(path, json.dumps(result, indent=1) + "\n")
