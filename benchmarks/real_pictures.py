"""Photographs through everything: `PYTHONPATH=export/ray python benchmarks/real_pictures.py FOLDER OUT.json`.

FOLDER holds class folders. ViT-B/32 with random weights: what is shown is that nothing fails, that all ways
give the same answers, and what they take; of accuracy it says nothing. A threshold is calibrated first, at
5 % of the pictures countered. Then the same pictures go through the command line with torch, an exported
file, its verification, Ray's batch job and the endpoint. Peak memory is that of the process that was started.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow.parquet as pq
import torch
from load import ready
from processes import started, wait_for
from safetensors.torch import save_file

from clipfast.bench.environment import environment
from clipfast.evaluation.datasets import find_dataset
from clipfast.files import write_text
from clipfast.preprocess import image_files

MODEL, RATE, SEED, CONNECTIONS = "ViT-B-32", 0.05, 0, 16
VERIFIED = 32  # pictures: each is answered some ten times, and by the eager reference
Answers = dict[str, dict[str, Any]]  # by the picture's path below the folder


class Steps:
    """Commands that were run, with their seconds and peak memory."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, float | None]] = {}

    def run(self, name: str, *command: object) -> str:
        """Standard output. Raises RuntimeError for an exit code that is not 0."""
        start = time.perf_counter()
        with tempfile.TemporaryFile("w+") as out:
            process = subprocess.Popen([sys.executable, *map(str, command)], stdout=out)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode != 0:
                raise RuntimeError(f"{name}: exit code {process.returncode}")
            self.note(name, time.perf_counter() - start, usage.ru_maxrss * 1024)
            out.seek(0)
            return out.read()

    def note(self, name: str, seconds: float, peak: int | None) -> None:
        """Keeps what a step took."""
        row = {"seconds": seconds, "peak bytes": peak}
        self.rows[name] = row
        print(f"{name:32} {json.dumps(row)}", flush=True)


def of_lines(text: str, folder: Path) -> Answers:
    """Answers of `clipfast classify --json`."""
    rows = map(json.loads, text.splitlines())
    return {str(Path(row.pop("image")).relative_to(folder)): row for row in rows}


def of_parquet(file: Path) -> Answers:
    """Answers of Ray's batch job."""
    rows = pq.read_table(file).to_pylist()
    return {row.pop("key"): row | {"class": row["label"]} for row in rows}


def of_endpoint(port: int, folder: Path, files: Iterable[Path]) -> Answers:
    """Posts all files over some connections. Raises RuntimeError for a picture that is not answered."""
    found: Answers = {}
    waiting = iter(files)

    def client(_: int) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
            while (file := next(waiting, None)) is not None:
                connection.request("POST", "/classify", file.read_bytes(), {"Content-Type": "image/jpeg"})
                response = connection.getresponse()
                said = json.loads(response.read())
                if response.status != 200:
                    raise RuntimeError(f"{file}: {response.status} {said}")
                found[str(file.relative_to(folder))] = said | {"class": said["top"][0]["label"]}

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(client, range(CONNECTIONS)))
    return found


def agreement(ours: Answers, theirs: Answers) -> dict[str, float]:
    """How far two ways agree on the same pictures. Raises RuntimeError where they are of other ones."""
    if set(ours) != set(theirs):
        raise RuntimeError(f"answers of {len(ours)} and {len(theirs)} pictures, not of the same ones")
    pairs = [(ours[name], theirs[name]) for name in ours]
    drifts = np.array([[pair[0]["drift"], pair[1]["drift"]] for pair in pairs])
    return {
        "same class": float(np.mean([a["class"] == b["class"] for a, b in pairs])),
        "same gate": float(np.mean([a["countered"] == b["countered"] for a, b in pairs])),
        "drift, largest relative difference": float(np.abs(drifts[:, 1] / drifts[:, 0] - 1).max()),
    }


def main(folder: Path, out: Path) -> None:
    """Runs all ways, prints what they took and how far they agree, and writes both."""
    files = list(image_files([folder]))
    classnames = find_dataset(folder).classnames
    steps = Steps()
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        place = Path(scratch)
        weights, names, key = place / "weights.safetensors", place / "names.txt", place / "key"
        config, file = place / "config.json", place / "defended.onnx"
        torch.manual_seed(SEED)
        save_file(open_clip.create_model(MODEL).state_dict(), weights)
        names.write_text("".join(f"{name}\n" for name in classnames))
        key.write_bytes(secrets.token_bytes(32))
        model = ["--model", MODEL, "--pretrained", weights, "--classnames", names]
        cli = ("-m", "clipfast")
        steps.run("calibrate", *cli, "calibrate", "--clean", folder, "--rate", RATE, *model, "-o", config)
        answered = [*cli, "classify", folder, "--seed", SEED, "--json"]
        by_torch = of_lines(steps.run("classify, torch", *answered, *model, "--config", config), folder)
        options = ["--profile", "lab", "--config", config, "--no-verify"]
        steps.run("export", *cli, "export", "-o", file, *model, *options)
        sample = place / "sample"
        sample.mkdir()
        for index, picture in enumerate(files[:: max(1, len(files) // VERIFIED)]):
            shutil.copy(picture, sample / f"{index:03d}{picture.suffix}")
        against = ["--against", MODEL, "--pretrained", weights, "--images", sample]
        table = steps.run(f"verify, some {VERIFIED} of them", *cli, "verify", file, *against)
        by_file = of_lines(steps.run("classify, ONNX Runtime", *answered, "--artifact", file), folder)
        kept = ["--artifact", file, "--noise-key", key]
        steps.run("Ray's batch job", "export/ray/batch.py", folder, *kept, "--out", place / "results")
        by_ray = of_parquet(place / "results/results.parquet")
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            port = free.getsockname()[1]
        with started("serve.py", *kept, "--port", port, scratch=place) as server:
            wait_for(lambda: server.poll() is not None or ready(port), "the endpoint", seconds=300)
            start = time.perf_counter()
            by_http = of_endpoint(port, folder, files)
            steps.note("endpoint", time.perf_counter() - start, None)
    drift = np.array([row["drift"] for row in by_torch.values()])
    found = {
        "environment": environment(torch.device("cpu")),
        "model": f"{MODEL}, random weights",
        "pictures": len(files),
        "steps": steps.rows,
        "agreement": {
            "torch and ONNX Runtime, one seed": agreement(by_torch, by_file),
            "batch job and endpoint, one key": agreement(by_ray, by_http),
        },
        "drift": dict(zip(("min", "5 %", "median", "95 %", "max"), quantiles(drift), strict=True)),
        "countered": float(np.mean([row["countered"] for row in by_torch.values()])),
        "verify": table.splitlines(),
    }
    print(json.dumps({name: found[name] for name in ("agreement", "drift", "countered")}, indent=1))
    write_text(out, json.dumps(found, indent=1) + "\n")


def quantiles(values: np.ndarray) -> Sequence[float]:
    """Least, 5 %, median, 95 %, greatest."""
    return np.quantile(values, [0, 0.05, 0.5, 0.95, 1]).tolist()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
