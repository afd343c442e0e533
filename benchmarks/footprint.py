"""What an export takes and leaves: `python benchmarks/footprint.py OUT.json`, ViT-B/32, random weights.

Seconds and peak memory of `export` with its verification; the file's size over the tower's parameters; the
resident memory of fresh processes that load it, over the file's size.
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
import json, os, sys
from clipfast.runtime import OnnxClassifier
import warnings; warnings.simplefilter("ignore")
OnnxClassifier(sys.argv[1], threads=2, low_memory=sys.argv[2] == "True")
lines = open("/proc/self/status").read().splitlines()
print(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS")))
"""


def resident(path: Path, *, low_memory: bool) -> int:
    """Bytes of a fresh process once it has loaded the file."""
    command = [sys.executable, "-c", _LOAD, str(path), str(low_memory)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


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
            "resident over file": resident(path, low_memory=False) / size,
            "resident over file, low_memory": resident(path, low_memory=True) / size,
        }
    print(json.dumps(figures, indent=1))
    result = {"environment": environment(device), "cores": os.cpu_count(), "figures": figures}
    write_text(out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
