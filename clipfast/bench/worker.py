"""One process of a benchmark, which writes JSON lines: a model's scenarios, or a column's peak memory."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..measurement.interleave import rounds
from ..models.tower import ImageTower
from .columns import Towers, check, closure, names
from .environment import environment
from .scenario import Scenario, make_images, make_tower

__all__ = ["measure_job"]


def measure_job() -> None:
    """Reads a job from the first command line argument, and runs it.

    Raises:
        RuntimeError: If an engine or artifact does not counter the images that it should, if an engine
            differs from the reference, or if the drifts of a batch do not allow for its gate.
    """
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    device = torch.device(job["device"])
    # The reference's patch projection is a convolution, which CUDA rounds to 10 bits by default.
    torch.backends.cudnn.allow_tf32 = False
    scenarios = [Scenario(**scenario) for scenario in job["scenarios"]]
    tower = make_tower(scenarios[0].model, device)
    if job["exports"]:
        _measure_exports(tower, scenarios, job["threads"])
        return
    towers = Towers(tower, compile=job["compile"], precisions=tuple(job["precisions"]))
    if column := job.get("peak_of"):
        _emit(kind="peak", column=column, **_peak(towers, scenarios[0], column))
        return
    _emit(kind="environment", **environment(device))
    for scenario in scenarios:
        images = make_images(tower, scenario.batch, scenario.countered)
        for precision in job["precisions"]:
            check(towers, images, precision)
        columns = {name: closure(name, towers, images) for name in names(towers)}
        for seconds in rounds(columns, scenario.rounds):
            _emit(kind="round", scenario=scenario.to_dict(), seconds=seconds)


def _measure_exports(tower: ImageTower, scenarios: list[Scenario], threads: int) -> None:
    from .exported import Artifacts, exported_columns

    _emit(kind="environment", onnxruntime=version("onnxruntime"), **environment(tower.mean.device))
    with tempfile.TemporaryDirectory() as folder:
        artifacts = Artifacts(tower, scenarios[0].model, Path(folder), threads)
        for scenario in scenarios:
            images = make_images(tower, scenario.batch, scenario.countered)
            columns = exported_columns(tower, artifacts, images)
            for seconds in rounds(columns, scenario.rounds):
                _emit(kind="round", scenario=scenario.to_dict(), seconds=seconds)


def _peak(towers: Towers, scenario: Scenario, column: str) -> dict[str, Any]:
    images = make_images(towers.eager, scenario.batch, scenario.countered)
    work = closure(column, towers, images)
    if images.pixels.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        work()
        peak = torch.cuda.max_memory_allocated()
    else:
        for _ in range(2):
            work()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"scenario": scenario.to_dict(), "bytes": peak}


def _emit(**line: Any) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    measure_job()
