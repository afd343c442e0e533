"""Exported classifiers in ONNX, by the runtime that runs them. Need no torch."""

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

    path: the .onnx file, beside its external data if it has some. providers: ONNX Runtime's execution
    providers in order of preference, as "cpu", "cuda", "tensorrt", "coreml", "webgpu" or by its own names, or
    (name, options); by default CUDA where this build of ONNX Runtime has it, then the CPU. Where a provider
    would compute in less than float32 by itself it is told not to. threads: of one operator; by default ONNX
    Runtime's choice. low_memory: no second copy of the weights in the layout that products read, and no
    memory kept between calls; slower. sha256: digest that the file must have, see `load_artifact`.
    noise_policy, noise_key, warnings: see `ArtifactClassifier`.

    Logs which providers are active; `stats().placed` counts the nodes of each.

    A file that takes noise is fed noise under keys from the operating system. One that draws its own does so
    by ONNX Runtime's generator, seeded anew for each session from the operating system: on a CPU a linear
    congruential generator of 31 bits of state, which is not cryptographic. Who sees its noise can tell the
    next, and 2^31 guesses are few. Making a session sets ONNX Runtime's seed for the whole process.

    Raises ArtifactError for a file that is missing, truncated, foreign, of a newer schema, or whose inputs
    and outputs are not those of its metadata, and for a provider that was asked for and is not used;
    InputError for bad options; ModuleNotFoundError without onnxruntime.
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

    path: the .onnx file, beside its external data if it has some. threads: of one call; by default
    OpenVINO's choice. low_memory: no primitives kept for batch sizes that were seen; slower where they
    change, and 2 % of the memory on ViT-B/32. cache: folder in which compiled models are kept, so that the
    next start is faster; whoever can write there decides what runs. A file that draws its own noise is
    compiled at every start, as its seed is part of what is compiled. precision: "fp32" alone. OpenVINO itself
    would choose bfloat16 where the CPU has it, in which drift, and so the gate, is off by up to a third.
    sha256: digest that the file must have, see `load_artifact`. noise_policy, noise_key, warnings: see
    `ArtifactClassifier`.

    A file that takes noise is fed noise under keys from the operating system. One that draws its own does so
    by OpenVINO's generator (Philox), which each session seeds with 31 bits from the operating system: few
    enough to guess.

    Raises ArtifactError for a file that is missing, truncated, foreign, of a newer schema, that OpenVINO
    cannot compile, or whose inputs and outputs are not those of its metadata; InputError for bad options;
    ModuleNotFoundError without openvino.
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
