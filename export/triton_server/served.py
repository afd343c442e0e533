"""A defended classifier behind NVIDIA's inference server, used as one that runs here. Needs no torch.

All that a caller must know (classes, preprocessing, limits) is in the model's configuration on the server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
from model_config import check_ports, metadata_text
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from clipfast.artifacts.base import ArtifactClassifier, read_metadata
from clipfast.errors import ArtifactError, InputError

__all__ = ["ServedClassifier"]


class ServedClassifier(ArtifactClassifier):
    """A model that `repository.py` wrote, over gRPC.

    url: host:port of the server's gRPC. model: its name. version: one that the server serves, by default the
    newest; every request asks for that one, so that an upgrade changes no answers midway. timeout: seconds
    that each request may take.

    Batches of any size; more than the server's largest go in several requests. The server draws the noise.
    Raises ArtifactError where the server cannot be reached or does not answer in time, has no such model or
    version, has it but not ready, and for a model that is none of clipfast's.
    """

    def __init__(self, url: str, model: str, *, version: int | None = None, timeout: float = 30.0) -> None:
        if not 0 < timeout < float("inf"):
            raise InputError(f"timeout must be a positive number of seconds, got {timeout!r}")
        self._client: Any = grpcclient.InferenceServerClient(url)
        self._url, self._model, self._timeout = url, model, timeout
        self._version = str(self._newest() if version is None else version)
        where = Path(url, model, self._version)
        self._check_ready()
        config = self._ask(self._client.get_model_config, model, self._version).config
        metadata = read_metadata(where, metadata_text(config, int(self._version)))
        check_ports(config, metadata, str(where))
        self._largest: int = config.max_batch_size
        super().__init__(where, metadata, noise_policy="fresh", noise_key=None)

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()

    def _newest(self) -> int:
        versions = [int(entry.version) for entry in self._index() if entry.state == "READY"]
        if not versions:
            raise ArtifactError(self._not_ready())
        return max(versions)

    def _check_ready(self) -> None:
        if not self._ask(self._client.is_model_ready, self._model, self._version):
            raise ArtifactError(self._not_ready(self._version))

    def _index(self) -> list[Any]:
        """What the server says of each version of the model."""
        models = self._ask(self._client.get_model_repository_index).models
        found = [entry for entry in models if entry.name == self._model]
        if not found:
            names = ", ".join(sorted({entry.name for entry in models})) or "none"
            raise ArtifactError(f"the server at {self._url} has no model {self._model!r}; it has: {names}")
        return found

    def _not_ready(self, version: str | None = None) -> str:
        states = [
            f"version {entry.version or 'unknown'} is {entry.state or 'not loaded'}"
            + (f" ({' '.join(entry.reason.split())})" if entry.reason else "")
            for entry in self._index()
        ]
        asked = "" if version is None else f" version {version} of"
        return f"{self._url} does not serve{asked} {self._model!r}: {', '.join(states)}"

    def _ask(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        try:
            return call(*args, **options, client_timeout=self._timeout)
        except InferenceServerException as error:
            raise ArtifactError(self._explained(error)) from error

    def _explained(self, error: InferenceServerException) -> str:
        said = " ".join(str(error.message()).split())
        match error.status():
            case "StatusCode.DEADLINE_EXCEEDED":
                return f"{self._url} gave no answer within {self._timeout:g} s"
            case "StatusCode.UNAVAILABLE":
                return f"{self._url} is not available (gRPC, by default on port 8001): {said}"
        return f"{self._url}: {said}"

    def _run(self, inputs: Sequence[NDArray[Any]]) -> Sequence[Any]:
        (pixels,) = inputs
        starts = range(0, len(pixels), self._largest)
        answers = [self._infer(pixels[start : start + self._largest]) for start in starts]
        if not answers:  # the server takes no empty batch
            return [np.empty((0, *_sizes(port.shape)), port.dtype) for port in self._outputs]
        return [np.concatenate(parts) for parts in zip(*answers, strict=True)]

    def _infer(self, pixels: NDArray[Any]) -> list[NDArray[Any]]:
        port = self._inputs[0]
        tensor = grpcclient.InferInput(port.name, list(pixels.shape), np_to_triton_dtype(pixels.dtype))
        tensor.set_data_from_numpy(pixels)
        result = self._ask(self._client.infer, self._model, [tensor], self._version)
        # The server's [N, 1] are numbers, one an image: it knows no shape without a size.
        return [
            result.as_numpy(port.name).reshape(len(pixels), *_sizes(port.shape)) for port in self._outputs
        ]


def _sizes(shape: Sequence[int | None]) -> list[int]:
    """A port's shape without the batch."""
    return [size for size in shape[1:] if size is not None]
