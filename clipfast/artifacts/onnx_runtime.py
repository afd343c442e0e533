"""Exported classifiers in ONNX, over ONNX Runtime."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..errors import ArtifactError, names_extra
from ..inputs.rules import NoisePolicy, checked_integer
from .base import ArtifactClassifier, PortFacts, check_file, check_ports, one_line, read_metadata
from .metadata import KEY
from .providers import Provider, check_used, placed, usable

__all__ = ["OnnxClassifier"]

_TYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(bool)": "bool"}

# onnxruntime seeds the generators of a session from one seed of the process, by default the clock's, which
# stands still between two sessions: they would draw the same noise. So each session gets its own. It is
# taken modulo 2^31 - 1, to which 0 and 1 are the same.
_SEEDS = 2**31 - 2
_seeding = threading.Lock()

_log = logging.getLogger(__name__)


class OnnxClassifier(ArtifactClassifier):
    """A defended classifier exported to ONNX, over ONNX Runtime.

    path: the .onnx file, beside its external data if it has some. providers: ONNX Runtime's execution
    providers in order of preference, as "cpu", "cuda", "tensorrt", "coreml", "webgpu" or by its own names, or
    (name, options); by default CUDA where this build of ONNX Runtime has it, then the CPU. Where a provider
    would compute in less than float32 by itself it is told not to. threads: of one operator; by default ONNX
    Runtime's choice. low_memory: no second copy of the weights in the layout that products read, and no
    memory kept between calls; slower. noise_policy, noise_key, warnings: see `ArtifactClassifier`.

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
        noise_policy: NoisePolicy = "fresh",
        noise_key: bytes | None = None,
    ) -> None:
        try:
            import onnxruntime
            from onnxruntime.capi.onnxruntime_pybind11_state import InvalidProtobuf
        except ModuleNotFoundError as error:
            raise names_extra("clipfast.runtime.OnnxClassifier", error) from error
        path = Path(path)
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = checked_integer("threads", threads, 2**16, start=1)
        if low_memory:
            options.add_session_config_entry("session.disable_prepacking", "1")
            options.enable_cpu_mem_arena = False
            options.enable_mem_pattern = False
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        chosen = usable(path, providers, onnxruntime)
        check_file(path)
        try:
            with _seeding:
                onnxruntime.set_seed(1 + secrets.randbelow(_SEEDS))
                session = onnxruntime.InferenceSession(path, options, providers=chosen)
        except InvalidProtobuf as error:
            raise ArtifactError(
                f"{path}: expected an ONNX file; it is truncated, or of another format"
            ) from error
        except Exception as error:  # its errors have no common class but this
            raise ArtifactError(f"{path}: onnxruntime cannot load it: {one_line(error)}") from error
        metadata = read_metadata(path, session.get_modelmeta().custom_metadata_map.get(KEY))
        inputs, outputs = metadata.ports
        check_ports(path, "input", inputs, _described(session.get_inputs()))
        check_ports(path, "output", outputs, _described(session.get_outputs()))
        _hand_back()
        self._session, runs = session, placed(session)
        check_used(path, providers, self.providers, runs)
        super().__init__(path, metadata, noise_policy=noise_policy, noise_key=noise_key, placed=runs)
        _log.info("%s runs on %s", path, ", ".join(self.providers))

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers that are active, the preferred one first."""
        return tuple(self._session.get_providers())

    def _run(self, inputs: Sequence[NDArray[Any]]) -> Sequence[Any]:
        fed = {port.name: array for port, array in zip(self._inputs, inputs, strict=True)}
        return self._session.run([port.name for port in self._outputs], fed)


def _hand_back() -> None:
    """Returns freed memory to the system: glibc keeps the weights that onnxruntime frees once packed."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _described(nodes: Sequence[Any]) -> dict[str, PortFacts]:
    """The dtypes and shapes of a graph's inputs or outputs, by name: None for a size that is not fixed."""
    return {
        str(node.name): (
            _TYPES.get(node.type) or str(node.type),
            tuple(size if isinstance(size, int) else None for size in node.shape),
        )
        for node in nodes
    }
