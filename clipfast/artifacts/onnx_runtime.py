"""Exported classifiers in ONNX, over ONNX Runtime."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import secrets
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..errors import ArtifactError, InputError, names_extra
from ..inputs.rules import NoisePolicy, checked_integer
from .base import ArtifactClassifier, check_file, one_line, read_metadata
from .metadata import KEY
from .ports import Port

__all__ = ["OnnxClassifier"]

Provider = str | tuple[str, dict[str, Any]]

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
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
    providers in order of preference, by name or (name, options); by default CUDA where this build of ONNX
    Runtime has it, then the CPU. threads: of one operator; by default ONNX Runtime's choice. low_memory: no
    second copy of the weights in the layout that products read, and no memory kept between calls; slower.
    noise_policy, noise_key, warnings: see `ArtifactClassifier`.

    Logs which provider is active, and warns with UserWarning where a GPU's was asked for and none is.

    A file that takes noise is fed noise under keys from the operating system. One that draws its own does so
    by ONNX Runtime's generator, seeded anew for each session from the operating system: on a CPU a linear
    congruential generator of 31 bits of state, which is not cryptographic. Who sees its noise can tell the
    next, and 2^31 guesses are few. Making a session sets ONNX Runtime's seed for the whole process.

    Raises ArtifactError for a file that is missing, truncated, foreign, of a newer schema, or whose inputs
    and outputs are not those of its metadata; InputError for bad options; ImportError without onnxruntime.
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
        chosen = _usable(providers, onnxruntime.get_available_providers(), onnxruntime.get_all_providers())
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
        _check_ports(path, "input", inputs, session.get_inputs())
        _check_ports(path, "output", outputs, session.get_outputs())
        _hand_back()
        super().__init__(path, metadata, noise_policy=noise_policy, noise_key=noise_key)
        self._session = session
        self._report(providers)

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers that are active, the preferred one first."""
        return tuple(self._session.get_providers())

    def _run(self, inputs: Sequence[NDArray[Any]]) -> Sequence[Any]:
        fed = {port.name: array for port, array in zip(self._inputs, inputs, strict=True)}
        return self._session.run([port.name for port in self._outputs], fed)

    def _report(self, asked: Sequence[Provider] | None) -> None:
        _log.info("%s runs on %s", self.path, ", ".join(self.providers))
        accelerators = set(map(_name, asked or ())) - {_CPU}
        if accelerators and not accelerators & set(self.providers):
            warnings.warn(
                f"{', '.join(sorted(accelerators))} was asked for, but {self.path} runs on "
                f"{', '.join(self.providers)}",
                stacklevel=3,
            )


def _hand_back() -> None:
    """Returns freed memory to the system: glibc keeps the weights that onnxruntime frees once packed."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _name(provider: Provider) -> str:
    return provider if isinstance(provider, str) else provider[0]


def _usable(providers: Sequence[Provider] | None, available: list[str], known: list[str]) -> list[Provider]:
    """Those of the providers asked for that this build of onnxruntime has, the CPU's if it has none."""
    if providers is None:
        providers = [_CUDA, _CPU]
    elif isinstance(providers, str):
        raise InputError(f"expected a sequence of providers, got the string {providers!r}")
    if unknown := [name for name in map(_name, providers) if name not in known]:
        raise InputError(f"unknown providers {unknown}; onnxruntime knows {known}")
    return [provider for provider in providers if _name(provider) in available] or [_CPU]


def _check_ports(path: Path, kind: str, ports: Sequence[Port], nodes: Sequence[Any]) -> None:
    """Raises ArtifactError where a graph's inputs or outputs are not those of the metadata."""
    expected = {port.name: (port.dtype, port.shape) for port in ports}
    found = {str(node.name): (str(_TYPES.get(node.type, node.type)), _fixed(node.shape)) for node in nodes}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ArtifactError(
                f"{path}: its metadata has {_described(expected.get(name))} as {kind} {name!r}, "
                f"its graph {_described(found.get(name))}"
            )


def _fixed(shape: Sequence[int | str | None]) -> tuple[int | None, ...]:
    """A shape with None for every size that has a name or none."""
    return tuple(size if isinstance(size, int) else None for size in shape)


def _described(port: tuple[str, tuple[int | None, ...]] | None) -> str:
    if port is None:
        return "nothing"
    dtype, shape = port
    return f"{dtype} [{', '.join('N' if size is None else str(size) for size in shape)}]"
