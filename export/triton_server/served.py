"""A defended classifier behind NVIDIA's inference server, used as one that runs here. Needs no torch.

All that a caller must know (classes, preprocessing, limits) is in the model's configuration on the server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
from model_config import check_ports, metadata_text
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from clipfast.artifacts.classifier import ArtifactClassifier
from clipfast.artifacts.sessions.session import Arrays, Session
from clipfast.cli.classify import Answered
from clipfast.errors import ArtifactError, InputError
from clipfast.inputs.arrays import thresholds

__all__ = ["ServedClassifier", "ServedFiles"]


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
        self._server = ServedSession(url, model, version, timeout)
        super().__init__(self._server)
        check_ports(self._server.config, self.metadata, str(self.path))

    def close(self) -> None:
        """Ends the connection."""
        self._server.close()


class ServedFiles(ServedClassifier):
    """The same model behind `NAME_files`, which takes picture files: the server decodes them.

    Arguments and errors as for `ServedClassifier`; the chain always asks the newest version. ArtifactError
    for a model without such a chain, too.
    """

    def __init__(self, url: str, model: str, *, timeout: float = 30.0) -> None:
        super().__init__(url, model, timeout=timeout)
        self._server.check_chain()

    def answers(self, files: list[Path], size: int) -> Iterator[Answered]:
        """Sends each file as it is, up to `size` of them at once, so that the server batches them."""
        with ThreadPoolExecutor(size) as pool:
            for first in range(0, len(files), size):
                sent = files[first : first + size]
                found = list(zip(sent, pool.map(self._ask, sent), strict=True))
                good = [(file, answer) for file, answer in found if not isinstance(answer, InputError)]
                prediction = None
                if good:
                    prediction = self._prediction(
                        {
                            port.name: np.concatenate([answer[port.name] for _, answer in good])
                            for port in self._outputs
                        },
                        thresholds(self.config.tau_threshold, len(good)),
                        calibrated=self.calibrated,
                    )
                errors = [answer for _, answer in found if isinstance(answer, InputError)]
                yield Answered([file for file, _ in good], prediction, errors)

    def _ask(self, file: Path) -> Arrays | InputError:
        try:
            return self._server.send(file, [port.name for port in self._outputs])
        except InputError as error:
            return error


class ServedSession(Session):
    """A version of a model on a server. Arguments and errors as for `ServedClassifier`.

    config: the model's configuration there.
    """

    def __init__(self, url: str, model: str, version: int | None, timeout: float) -> None:
        if not 0 < timeout < float("inf"):
            raise InputError(f"timeout must be a positive number of seconds, got {timeout!r}")
        self._client: Any = grpcclient.InferenceServerClient(url)
        self._url, self._model, self._timeout = url, model, timeout
        self._version = str(self._newest() if version is None else version)
        self._check_ready()
        self.config = self._ask(self._client.get_model_config, model, self._version).config
        self._numbers = {tensor.name for tensor in self.config.output if tensor.HasField("reshape")}
        text = metadata_text(self.config, int(self._version))
        super().__init__(Path(url, model, self._version), text, ports=None, placed={})

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()

    def check_chain(self) -> None:
        """Raises ArtifactError where the server takes no files for this model."""
        chain = self._chain
        if not self._ask(self._client.is_model_ready, chain):
            raise ArtifactError(
                f"{self._url} does not serve {chain!r}, which takes files: `repository.py --files` writes it"
            )

    def send(self, file: Path, outputs: Sequence[str]) -> Arrays:
        """The outputs for one picture file, [1, ...] each.

        Raises InputError for a file that cannot be read, here or there, and ArtifactError as `run` does.
        """
        try:
            data = np.frombuffer(file.read_bytes(), np.uint8)
        except OSError as error:
            raise InputError(f"cannot read {file}: {error.strerror or error}") from error
        try:
            found = self._client.infer(self._chain, [_tensor("file", data)], client_timeout=self._timeout)
        except InferenceServerException as error:
            if error.status() == "StatusCode.INVALID_ARGUMENT":
                raise InputError(f"{file}: {' '.join(str(error.message()).split())}") from error
            raise ArtifactError(self._explained(error)) from error
        return {output: self._shaped(output, found.as_numpy(output)) for output in outputs}

    @property
    def _chain(self) -> str:
        return f"{self._model}_files"

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

    def _run(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        ((name, pixels),) = inputs.items()
        largest: int = self.config.max_batch_size
        # The server takes no empty batch: of none, one picture is asked for and left out.
        asked = pixels if len(pixels) else np.zeros((1, *pixels.shape[1:]), pixels.dtype)
        starts = range(0, len(asked), largest)
        answers = [self._infer(name, asked[start : start + largest], outputs) for start in starts]
        return {
            output: np.concatenate([answer[output] for answer in answers])[: len(pixels)]
            for output in outputs
        }

    def _infer(self, name: str, pixels: NDArray[Any], outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        result = self._ask(self._client.infer, self._model, [_tensor(name, pixels)], self._version)
        return {output: self._shaped(output, result.as_numpy(output)) for output in outputs}

    def _shaped(self, output: str, found: NDArray[Any]) -> NDArray[Any]:
        """As clipfast has it: the server gives numbers, one an image, as [N, 1], which its config says."""
        return found[:, 0] if output in self._numbers else found


def _tensor(name: str, array: NDArray[Any]) -> Any:
    tensor = grpcclient.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    return tensor.set_data_from_numpy(array)
