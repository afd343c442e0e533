"""ONNX Runtime."""

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

from ...errors import ArtifactError, names_extra
from ...inputs.rules import checked_integer
from ..fields import KEY
from ..parts import as_checked
from .providers import Provider, check_used, placed, usable
from .session import Arrays, GraphPorts, PortFacts, Session, one_line

__all__ = ["OnnxRuntimeSession"]

_TYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(bool)": "bool"}

# onnxruntime seeds the generators of a session from one seed of the process, by default from the clock.
# Two sessions made at the same tick would draw the same noise, so each session gets its own seed. It is
# taken modulo 2^31 - 1, and the seeds 0 and 1 are the same.
_SEEDS = 2**31 - 2
_seeding = threading.Lock()

_log = logging.getLogger(__name__)


class OnnxRuntimeSession(Session):
    """An ONNX file over ONNX Runtime.

    Args:
        path: See `clipfast.runtime.OnnxClassifier`.
        providers: See `clipfast.runtime.OnnxClassifier`.
        threads: See `clipfast.runtime.OnnxClassifier`.
        low_memory: See `clipfast.runtime.OnnxClassifier`.
        sha256: See `clipfast.runtime.load_artifact`.

    Raises:
        ArtifactError: If the file is missing, truncated, or has another digest; its noise has a seed that
            is stored in the file; onnxruntime cannot load it; or a requested provider is not available or
            is not used.
        InputError: If `providers` or `threads` is not valid.
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
    ) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise names_extra(Path(path).name, error) from error
        path = Path(path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only: a user can do nothing about its warnings
        if threads is not None:
            options.intra_op_num_threads = checked_integer("threads", threads, 2**16, start=1)
        if low_memory:
            options.add_session_config_entry("session.disable_prepacking", "1")
            options.enable_cpu_mem_arena = False
            options.enable_mem_pattern = False
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        chosen = usable(path, providers, onnxruntime)
        try:
            with as_checked(path, sha256) as file, _seeding:
                onnxruntime.set_seed(1 + secrets.randbelow(_SEEDS))
                session = onnxruntime.InferenceSession(file, options, providers=chosen)
        except ArtifactError:
            raise
        except Exception as error:  # onnxruntime's errors have no other class in common
            raise ArtifactError(f"{path}: onnxruntime cannot load it: {one_line(error)}") from error
        _hand_back()
        self._session, runs = session, placed(session)
        check_used(path, providers, session.get_providers(), runs)
        super().__init__(
            path,
            session.get_modelmeta().custom_metadata_map.get(KEY),
            ports=GraphPorts(_described(session.get_inputs()), _described(session.get_outputs())),
            placed=runs,
            options={"providers": providers, "threads": threads, "low_memory": low_memory, "sha256": sha256},
        )
        _log.info("%s runs on %s", path, ", ".join(session.get_providers()))

    def _run(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        found: Sequence[Any] = self._session.run([*outputs], inputs)
        return dict(zip(outputs, found, strict=True))


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
