"""How threads should wait for each other: `python benchmarks/waiting.py OUT.json`, a quarter of an hour.

OpenMP's threads spin before they sleep. Spinning starts the next parallel region at once where each thread
has a core; where cores are shared it takes them from whoever has work. Each setting of libgomp runs in
processes of its own, in turns; each process measures on an idle machine first, and then beside as many busy
processes as there are cores.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from clipfast.bench.environment import environment
from clipfast.files import write_text

ROUNDS = 3
SECONDS = 2.0  # of one measurement in a process
SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    **{f"spin {n}": {"GOMP_SPINCOUNT": str(n)} for n in (1000, 10_000, 100_000)},
}
TASKS = ("undefended eager, ViT-B/32, batch 1", "defended, ViT-B/32, batch 1", "bundled BPDA, batch 50")


def worker() -> None:
    """Prints the median seconds of each task on an idle machine and on a busy one, as JSON."""
    import torch

    from clipfast import DefendedClassifier
    from clipfast.bench.columns import Towers
    from clipfast.bench.scenario import make_images, make_tower
    from clipfast.inputs.draws import fresh

    torch.set_num_threads(2)
    tower = make_tower("ViT-B-32-quickgelu", torch.device("cpu"))
    images = make_images(tower, 1, 0)
    engine = Towers(tower, compile=False, precisions=("fp32",)).engine("fp32", images.config)
    bundled = DefendedClassifier.bundled()
    attackable, pictures = bundled.differentiable("bpda"), torch.rand(50, 3, 96, 96, requires_grad=True)

    @torch.no_grad()
    def undefended() -> None:
        tower(images.pixels)

    def defended() -> None:
        engine.run(images.pixels, fresh(1, images.pixels.device), with_delta=False)

    def attacked() -> None:
        torch.autograd.grad(attackable(pictures).sum(), pictures)

    tasks = dict(zip(TASKS, (undefended, defended, attacked), strict=True))
    found = {"idle": {name: _median(task) for name, task in tasks.items()}}
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        found["busy"] = {name: _median(task) for name, task in tasks.items()}
    finally:
        for hog in hogs:
            hog.kill()
    print(json.dumps(found))


def _median(task: Callable[[], object]) -> float:
    task()
    taken, end = [], time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(taken) < 3:
        start = time.perf_counter()
        task()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def measured(setting: dict[str, str]) -> dict[str, dict[str, float]]:
    """A worker's medians under a setting."""
    clean = {
        name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    command = [sys.executable, __file__, "--worker"]
    done = subprocess.run(command, env={**clean, **setting}, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(out: Path) -> None:
    """Measures all settings, writes the medians over rounds, and prints them over the default's."""
    import torch

    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    order = random.Random(0)
    for turn in range(ROUNDS):
        for name in order.sample(list(SETTINGS), len(SETTINGS)):
            print(f"round {turn + 1} of {ROUNDS}: {name}", file=sys.stderr)
            for machine, tasks in measured(SETTINGS[name]).items():
                for task, seconds in tasks.items():
                    of_task = found.setdefault(machine, {}).setdefault(task, {})
                    of_task.setdefault(name, []).append(seconds)
    result = {"environment": environment(torch.device("cpu")), "seconds": found}
    write_text(out, json.dumps(result, indent=1) + "\n")
    for machine, tasks in found.items():
        for task, settings in tasks.items():
            base = statistics.median(settings["default"])
            ratios = {name: statistics.median(taken) / base for name, taken in settings.items()}
            print(
                f"{machine}, {task}: {base * 1e3:.0f} ms;",
                ", ".join(f"{n} {r:.2f}" for n, r in ratios.items()),
            )


if __name__ == "__main__":
    if sys.argv[1:] == ["--worker"]:
        worker()
    else:
        main(Path(sys.argv[1]))
