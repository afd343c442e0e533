"""OpenVINO, on a CPU."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ...errors import ArtifactError, InputError, names_extra
from ...inputs.rules import checked_integer
from ..fields import KEY
from ..parts import as_checked
from .session import Arrays, GraphPorts, PortFacts, Session, one_line

__all__ = ["OpenVinoPrecision", "OpenVinoSession"]

OpenVinoPrecision = Literal["fp32"]

_TYPES = {"f32": "float32", "u8": "uint8", "boolean": "bool"}
_SEEDS = 2**31

_SETTINGS = {
    "INFERENCE_PRECISION_HINT": "f32",
    # OpenVINO's just-in-time fusions (2026.4.1) crash the process on two small towers with a fixed batch,
    # and made the towers on which they work no faster.
    "SNIPPETS_MODE": "DISABLE",
}

_log = logging.getLogger(__name__)


class OpenVinoSession(Session):
    """An ONNX file over OpenVINO on a CPU.

    Args:
        path: See `clipfast.runtime.OpenVinoClassifier`.
        threads: See `clipfast.runtime.OpenVinoClassifier`.
        low_memory: See `clipfast.runtime.OpenVinoClassifier`.
        cache: See `clipfast.runtime.OpenVinoClassifier`.
        precision: "fp32" alone; see `clipfast.runtime.OpenVinoClassifier`.
        sha256: See `clipfast.runtime.load_artifact`.

    Raises:
        ArtifactError: If the file is missing, truncated, or has another digest; its noise has a seed that
            is stored in the file; or OpenVINO cannot compile it.
        InputError: If `precision` or `threads` is not valid.
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
    ) -> None:
        try:
            import openvino
        except ModuleNotFoundError as error:
            raise names_extra(Path(path).name, error) from error
        path = Path(path)
        if precision == "bf16":
            raise InputError(
                "precision 'bf16' is refused: OpenVINO's decides as float32 on 98 % of the bundled model's "
                "pictures, where 99 % are asked for (benchmarks/README.md); expected 'fp32'"
            )
        if precision not in get_args(OpenVinoPrecision):
            raise InputError(f"precision must be one of {get_args(OpenVinoPrecision)}, got {precision!r}")
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", **_SETTINGS}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = checked_integer("threads", threads, 2**16, start=1)
        if low_memory:
            options["CPU_RUNTIME_CACHE_CAPACITY"] = 0
        if cache is not None:
            options["CACHE_DIR"] = str(cache)
        try:
            with as_checked(path, sha256) as file:
                core = openvino.Core()
                model = core.read_model(file)
                if _seed(model):
                    options.pop("CACHE_DIR", None)  # the cache's key includes the new seed: never a hit
                compiled = core.compile_model(model, "CPU", options)
        except ArtifactError:
            raise
        except Exception as error:  # OpenVINO's errors have no other class in common
            raise ArtifactError(f"{path}: openvino cannot compile it: {one_line(error)}") from error
        inputs, outputs = (
            {port.any_name: _described(port) for port in found} for found in (model.inputs, model.outputs)
        )
        super().__init__(
            path,
            _metadata_text(model),
            ports=GraphPorts(inputs, outputs),
            placed={"CPU": len(compiled.get_runtime_model().get_ops())},
            options={
                "threads": threads,
                "low_memory": low_memory,
                "cache": cache,
                "precision": precision,
                "sha256": sha256,
            },
        )
        self._compiled, self._idle = compiled, []
        self._dtypes = {name: dtype for name, (dtype, _) in outputs.items()}
        _log.info("%s runs on OpenVINO's CPU plugin in float32", path)

    def _run(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        with self._request() as request:
            found = request.infer(inputs)
            # Booleans come as bytes.
            return {name: np.asarray(found[name]).astype(self._dtypes[name], copy=False) for name in outputs}

    @contextlib.contextmanager
    def _request(self) -> Iterator[Any]:
        """A request that no other thread uses: a compiled model's own serves one call at a time."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            yield request
        finally:
            self._idle.append(request)


def _metadata_text(model: Any) -> str | None:
    """What the file carries under clipfast's key; OpenVINO keeps an ONNX file's metadata in "framework"."""
    place = ["framework", KEY]
    return model.get_rt_info(place).value if model.has_rt_info(place) else None


def _seed(model: Any) -> bool:
    """Seeds the operators that draw noise, and returns whether there are any.

    Without a seed they draw by one of OpenVINO's own choice.
    """
    drawing = [
        node for body in _bodies(model) for node in body.get_ops() if node.get_type_name() == "RandomUniform"
    ]
    for node in drawing:
        node.set_attribute("global_seed", 1 + secrets.randbelow(_SEEDS - 1))
    return bool(drawing)


def _bodies(model: Any) -> Iterator[Any]:
    yield model
    for node in model.get_ops():
        if node.get_type_name() == "If":
            for branch in (0, 1):
                yield from _bodies(node.get_function(branch))


def _described(port: Any) -> PortFacts:
    """A port's dtype, and its shape with None for every size that is not fixed."""
    kind = str(port.element_type.to_string())
    shape = tuple(size.get_length() if size.is_static else None for size in port.partial_shape)
    return _TYPES.get(kind) or kind, shape
