"""ONNX Runtime's execution providers: found by name, kept in float32, and checked to be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import ArtifactError, InputError

__all__ = ["CPU", "Provider", "check_used", "placed", "usable"]

Provider = str | tuple[str, dict[str, Any]]  # a name, or a name and the provider's options

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_SHORT = {
    "cpu": CPU,
    "cuda": CUDA,
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
# The options that keep a provider in float32 if it would compute in less by default.
_IN_FLOAT32: dict[str, dict[str, Any]] = {
    CUDA: {"use_tf32": "0"},
    "CoreMLExecutionProvider": {"AllowLowPrecisionAccumulationOnGPU": "0", "MLComputeUnits": "CPUAndGPU"},
    "OpenVINOExecutionProvider": {"precision": "FP32"},
}


def usable(path: Path, asked: Sequence[Provider] | None, runtime: Any) -> list[Provider]:
    """Returns the providers to make a session with, under the names that onnxruntime knows.

    Options that keep a provider in float32 are added; options that were asked for override them.

    Args:
        path: The exported file, for error messages.
        asked: The providers in order of preference. None means CUDA if this build of onnxruntime has it,
            then the CPU. An empty sequence means the CPU.
        runtime: The module onnxruntime.

    Returns:
        Names, or (name, options), in order of preference.

    Raises:
        InputError: If `asked` is a string, or names a provider that onnxruntime does not know.
        ArtifactError: If this build of onnxruntime does not have a provider that was asked for.
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
    """Returns how many nodes of a session's graph each provider runs, by the provider's name."""
    return dict(Counter(part.ep_name for part in session.get_provider_graph_assignment_info()))


def check_used(
    path: Path, asked: Sequence[Provider] | None, active: Sequence[str], runs: dict[str, int]
) -> None:
    """Checks that the providers that were asked for run parts of the file.

    The CPU's provider need not run any part: it may be asked for as a fallback.

    Args:
        path: The exported file, for error messages.
        asked: The providers that were asked for; None checks nothing.
        active: The names of the session's providers.
        runs: How many nodes each provider runs, as `placed` returns it.

    Raises:
        ArtifactError: If a provider did not start, or no part of the file runs on it.
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
    """Adds the options that keep a provider in float32; the given options override them."""
    return (name, settled) if (settled := _IN_FLOAT32.get(name, {}) | options) else name


def _name(provider: Provider) -> str:
    name = provider if isinstance(provider, str) else provider[0]
    return _SHORT.get(name.lower(), name)
