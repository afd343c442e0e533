"""What an export takes and leaves: `python benchmarks/footprint.py OUT.json`, ViT-B/32, random weights.

Seconds and peak memory of `export` with its verification; the file's size over the tower's parameters; the
resident memory of fresh processes that load it, and then answer, over the file's size.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

_LOAD = """
import sys, warnings
import numpy as np
from clipfast.runtime import load_artifact
warnings.simplefilter("ignore")
def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
path, runtime, low_memory = sys.argv[1:]
classifier = load_artifact(path, runtime=runtime, threads=2, low_memory=low_memory == "True")
print(resident())
for n in (1, 2, 3, 5, 8):
    classifier.predict(np.random.default_rng(n).random((n, 3, 224, 224), np.float32))
print(resident())
"""


def resident(path: Path, runtime: str, *, low_memory: bool) -> tuple[int, int]:
    """Bytes of a fresh process once it has loaded the file, and after batches of five sizes up to 8."""
    command = [sys.executable, "-c", _LOAD, str(path), runtime, str(low_memory)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    loaded, answered = map(int, said.split())
    return loaded, answered


def main(out: Path) -> None:
    """Prints the figures and writes them."""
    import open_clip
    import torch

    from clipfast import DefendedClassifier
    from clipfast.bench.environment import environment
    from clipfast.exporters import export
    from clipfast.files import write_text

    torch.set_num_threads(2)
    device = torch.device("cpu")
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32", pretrained=None)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = [f"class {i}" for i in range(10)]
        classifier = DefendedClassifier(model, open_clip.get_tokenizer("ViT-B-32"), names)
        path = Path(folder) / "defended.onnx"
        start = time.perf_counter()
        export(classifier, path)
        seconds = time.perf_counter() - start
        size = path.stat().st_size
        parameters = 4 * sum(p.numel() for p in model.visual.parameters())
        figures = {
            "export with verification, seconds": seconds,
            "export with verification, peak bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "file over parameters": size / parameters,
        }
        for runtime in ("onnxruntime", "openvino"):
            for low_memory in (False, True):
                loaded, answered = resident(path, runtime, low_memory=low_memory)
                title = f"{runtime}{', low_memory' if low_memory else ''}"
                figures[f"resident over file, {title}"] = loaded / size
                figures[f"resident over file after batches up to 8, {title}"] = answered / size
    print(json.dumps(figures, indent=1))
    result = {"environment": environment(device), "cores": os.cpu_count(), "figures": figures}
    write_text(out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
