"""What a benchmark's figures depend on besides the code."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any, NamedTuple

import torch

from .. import __version__
from ..encoders.linear import product_forms
from ..measurement.machine import cpu_name
from ..ops import implementations
from ..torch_private import has_amx

__all__ = ["REGIMES", "Regime", "environment"]


class Regime(NamedTuple):
    """What a process is measured under.

    Attributes:
        variables: Of its environment.
        busy: Whether another process keeps one core busy meanwhile.
    """

    variables: dict[str, str]
    busy: bool = False


# glibc gives freed memory back to the kernel and faults it in again. With large thresholds it is kept.
REGIMES = {
    "default": Regime({}),
    "large thresholds": Regime(
        {
            "MALLOC_MMAP_MAX_": "0",
            "MALLOC_TRIM_THRESHOLD_": "1000000000000",
            "MALLOC_TOP_PAD_": "1000000000",
        }
    ),
    "one core busy": Regime({}, busy=True),
}


def environment(device: torch.device) -> dict[str, Any]:
    """Returns machine, threads, versions and the implementations that ran, as JSON values."""
    found: dict[str, Any] = {
        "clipfast": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "amx": has_amx(),
        "threads": torch.get_num_threads(),
        "malloc": {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")},
        "products": {
            str(dtype).removeprefix("torch."): product_forms(dtype)[0].__name__
            for dtype in (torch.float32, torch.bfloat16)
        },
        "operators": implementations().active[device.type],
        "trials": {what: trial.chosen for what, trial in implementations().trials.items()},
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda"] = torch.version.cuda
        found["triton"] = metadata.version("triton")
    return found
