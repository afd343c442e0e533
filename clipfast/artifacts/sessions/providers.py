"""ONNX Runtime's execution providers: by name, in float32, and used where they were asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import ArtifactError, InputError

__all__ = ["CPU", "Provider", "check_used", "placed", "usable"]

Provider = str | tuple[str, dict[str, Any]]

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_SHORT = {
    "cpu": CPU,
    "cuda": CUDA,
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
# Where a provider would compute in less than float32 by itself, its options that set it back.
_IN_FLOAT32: dict[str, dict[str, Any]] = {
    CUDA: {"use_tf32": "0"},
    "CoreMLExecutionProvider": {"AllowLowPrecisionAccumulationOnGPU": "0", "MLComputeUnits": "CPUAndGPU"},
    "OpenVINOExecutionProvider": {"precision": "FP32"},
}


def usable(path: Path, asked: Sequence[Provider] | None, runtime: Any) -> list[Provider]:
    """What to make a session of `path` with: names and options as the module onnxruntime takes them.

    asked: None is CUDA's where this build of onnxruntime has it, then the CPU's. Raises InputError for a name
    that onnxruntime does not know, and ArtifactError for one that this build of it has not.
    """
    available: list[str] = runtime.get_available_providers()
    if asked is None:
        return [_in_float32(name, {}) for name in (CUDA, CPU) if name in available]
    if isinstance(asked, str):
        raise InputError(f"expected a sequence of providers, got the string {asked!r}")
    named = [(_name(provider), {} if isinstance(provider, str) else provider[1]) for provider in asked]
    known = runtime.get_all_providers()
    if unknown := [name for name, _ in named if name not in known]:
        raise InputError(f"unknown providers {unknown}; expected {', '.join(_SHORT)} or one of {known}")
    if missing := [name for name, _ in named if name not in available]:
        raise ArtifactError(
            f"{path}: {', '.join(missing)} was asked for, and this build of onnxruntime has "
            f"{', '.join(available)}"
        )
    return [_in_float32(name, options) for name, options in named] or [CPU]


def placed(session: Any) -> dict[str, int]:
    """How many nodes of a session's graph each provider runs, by its name."""
    return dict(Counter(part.ep_name for part in session.get_provider_graph_assignment_info()))


def check_used(
    path: Path, asked: Sequence[Provider] | None, active: Sequence[str], runs: dict[str, int]
) -> None:
    """Raises ArtifactError where a provider that was asked for does not run. The CPU's may be a reserve.

    active: those of the session. runs: what `placed` gives.
    """
    for name in map(_name, asked or ()):
        if name not in active:
            raise ArtifactError(
                f"{path}: {name} was asked for and did not start (the log of onnxruntime says why); "
                f"active are {', '.join(active)}"
            )
        if name != CPU and not runs.get(name):
            raise ArtifactError(f"{path}: {name} was asked for, and no part of the file runs on it: {runs}")


def _in_float32(name: str, options: dict[str, Any]) -> Provider:
    """options: what was asked for, which may overrule."""
    return (name, settled) if (settled := _IN_FLOAT32.get(name, {}) | options) else name


def _name(provider: Provider) -> str:
    name = provider if isinstance(provider, str) else provider[0]
    return _SHORT.get(name.lower(), name)
