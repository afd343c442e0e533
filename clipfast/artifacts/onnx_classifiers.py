"""Exported classifiers in ONNX, a class for each runtime. Need no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..inputs.rules import NoiseKey, NoisePolicy
from .classifier import ArtifactClassifier
from .sessions.onnx_runtime import OnnxRuntimeSession
from .sessions.openvino_runtime import OpenVinoPrecision, OpenVinoSession
from .sessions.providers import Provider

__all__ = ["OnnxClassifier", "OpenVinoClassifier"]


class OnnxClassifier(ArtifactClassifier):
    """A defended classifier exported to ONNX, over ONNX Runtime.

    Logs which providers are active; `stats().placed` counts the nodes of each. Warns as
    `ArtifactClassifier` does.

    A file that takes noise is fed noise under keys from the operating system. A file that draws its own
    noise uses ONNX Runtime's generator, which is seeded anew for each session from the operating system.
    On a CPU this is a linear congruential generator with 31 bits of state, which is not cryptographic.
    Whoever sees its noise can predict the next, and 2^31 guesses are few. Making a session sets ONNX
    Runtime's seed for the whole process.

    Args:
        path: The .onnx file, beside its external data if it has some.
        providers: ONNX Runtime's execution providers in order of preference. Each is "cpu", "cuda",
            "tensorrt", "coreml", "webgpu", "openvino" or ONNX Runtime's own name, or (name, options). The
            default is CUDA if this build of ONNX Runtime has it, then the CPU. A provider that would
            compute in less than float32 by default is told not to, unless its options say otherwise.
        threads: The number of threads of one operator, at least 1. The default is ONNX Runtime's choice.
        low_memory: Whether to keep no second copy of the weights in the layout that products read, and no
            memory between calls. This is slower.
        sha256: The digest that the file must have; see `load_artifact`.
        noise_policy: See `ArtifactClassifier`.
        noise_key: See `ArtifactClassifier`.

    Raises:
        ArtifactError: If the file is missing, truncated, not from clipfast, or has another digest; its
            metadata has a newer schema; its inputs and outputs are not those of its metadata; its noise
            has a seed that is stored in the file; or a requested provider is not available or is not
            used.
        InputError: If an option, policy or key is not valid, or the policy is "content" and the file
            draws its noise itself.
        ModuleNotFoundError: If onnxruntime is not installed. The message names the extra.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        providers: Sequence[Provider] | None = None,
        threads: int | None = None,
        low_memory: bool = False,
        sha256: str | None = None,
        noise_policy: NoisePolicy = "fresh",
        noise_key: NoiseKey = None,
    ) -> None:
        session = OnnxRuntimeSession(
            path, providers=providers, threads=threads, low_memory=low_memory, sha256=sha256
        )
        super().__init__(session, noise_policy=noise_policy, noise_key=noise_key)


class OpenVinoClassifier(ArtifactClassifier):
    """A defended classifier exported to ONNX, over OpenVINO on a CPU.

    Warns as `ArtifactClassifier` does.

    A file that takes noise is fed noise under keys from the operating system. A file that draws its own
    noise uses OpenVINO's generator (Philox), which each session seeds with 31 bits from the operating
    system. These are few enough to guess.

    Args:
        path: The .onnx file, beside its external data if it has some.
        threads: The number of threads of one call, at least 1. The default is OpenVINO's choice.
        low_memory: Whether to keep no primitives for batch sizes that were seen. This is slower if batch
            sizes change, and saves 2 % of the memory on ViT-B/32.
        cache: A folder in which compiled models are kept, so that the next start is faster. Whoever can
            write to it decides what runs. A file that draws its own noise is compiled at every start,
            because its seed is part of what is compiled.
        precision: "fp32" alone. By itself OpenVINO would choose bfloat16 if the CPU has it; drift, and so
            the gate, is then off by up to a third.
        sha256: The digest that the file must have; see `load_artifact`.
        noise_policy: See `ArtifactClassifier`.
        noise_key: See `ArtifactClassifier`.

    Raises:
        ArtifactError: If the file is missing, truncated, not from clipfast, or has another digest; its
            metadata has a newer schema; OpenVINO cannot compile it; its inputs and outputs are not those
            of its metadata; or its noise has a seed that is stored in the file.
        InputError: If an option, policy or key is not valid, or the policy is "content" and the file
            draws its noise itself.
        ModuleNotFoundError: If openvino is not installed. The message names the extra.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        low_memory: bool = False,
        cache: str | os.PathLike[str] | None = None,
        precision: OpenVinoPrecision = "fp32",
        sha256: str | None = None,
        noise_policy: NoisePolicy = "fresh",
        noise_key: NoiseKey = None,
    ) -> None:
        session = OpenVinoSession(
            path, threads=threads, low_memory=low_memory, cache=cache, precision=precision, sha256=sha256
        )
        super().__init__(session, noise_policy=noise_policy, noise_key=noise_key)
