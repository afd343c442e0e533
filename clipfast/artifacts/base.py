"""What exported classifiers share whatever runs them: numpy in, a Prediction out. Needs no torch."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..config import CounterattackConfig
from ..errors import ArtifactError, InputError, UncalibratedWarning, uncalibrated
from ..inputs import arrays
from ..inputs.noise import NoiseSource, check_one_source
from ..inputs.rules import NoisePolicy
from ..prediction import Prediction, Stats, StatsRecorder
from ..preprocess import Preprocess
from .metadata import Metadata
from .ports import Port, described

__all__ = ["ArtifactClassifier", "PortFacts", "check_file", "check_ports", "one_line", "read_metadata"]

PortFacts = tuple[str, tuple[int | None, ...]]  # dtype and shape: None is a size that is not fixed

_log = logging.getLogger(__name__)


def check_file(path: Path) -> None:
    """Raises ArtifactError for a file that is missing, empty or unreadable."""
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error
    if empty:
        raise ArtifactError(f"{path}: expected an exported classifier, got zero bytes")


def read_metadata(path: Path, text: str | None) -> Metadata:
    """The metadata found in a file; raises ArtifactError for none and for what cannot be read."""
    if not text:
        raise ArtifactError(f"{path}: carries no clipfast metadata, so clipfast did not export it")
    try:
        return Metadata.from_json(text)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error


def check_ports(path: Path, kind: str, ports: Sequence[Port], found: Mapping[str, PortFacts]) -> None:
    """Raises ArtifactError where a graph's inputs or outputs, by name, are not those of its metadata."""
    expected = {port.name: (port.dtype, port.shape) for port in ports}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ArtifactError(
                f"{path}: its metadata has {_described(expected.get(name))} as {kind} {name!r}, "
                f"its graph {_described(found.get(name))}"
            )


def _described(port: PortFacts | None) -> str:
    return "nothing" if port is None else described(*port)


def one_line(error: Exception) -> str:
    """What another library's error says, on one line of bounded length."""
    return " ".join(str(error).split())[:400] or type(error).__name__


class ArtifactClassifier(ABC):
    """A defended classifier read from an exported file; a subclass for each format runs it.

    metadata: what the file says about itself. noise_policy, noise_key: as for `DefendedClassifier`, where
    the file takes noise as an input (profile "lab", and static files). placed: see `Stats`.

    Many threads may call `predict` of one classifier at once. Warns with UncalibratedWarning where the
    threshold was not calibrated for the exported model. Raises InputError for a bad policy or key, and for
    the policy "content" where the file draws its noise itself.

    A test-time defence is not a certified one: `metadata.limits`.
    """

    slow: ClassVar[bool] = False  # too slow to serve: for checks

    def __init__(
        self,
        path: Path,
        metadata: Metadata,
        *,
        noise_policy: NoisePolicy,
        noise_key: bytes | None,
        placed: Mapping[str, int] | None = None,
    ) -> None:
        self._source = NoiseSource(noise_policy, noise_key)
        self.path = path
        self.metadata = metadata
        self._inputs, self._outputs = metadata.ports
        self._stats, self._placed = StatsRecorder(), dict(placed or {})
        if noise_policy == "content" and not self._takes("noise"):
            raise InputError(self._only_in_lab("noise_policy 'content'"))
        if not self.calibrated:
            # Up to who called the subclass.
            warnings.warn(uncalibrated(self.config.tau_threshold), UncalibratedWarning, stacklevel=3)

    @property
    def noise_policy(self) -> NoisePolicy:
        """How noise is drawn that a call does not give: "fresh" or "content"."""
        return self._source.policy

    @property
    def classnames(self) -> tuple[str, ...]:
        """The C classes, in the order of the logits."""
        return self.metadata.classnames

    @property
    def config(self) -> CounterattackConfig:
        """The settings that the file was exported with."""
        return self.metadata.config

    @property
    def preprocess(self) -> Preprocess:
        """From image files to the pixels that the file takes."""
        return self.metadata.preprocess

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the pixels that the file takes."""
        return self.metadata.preprocess.size

    @property
    def calibrated(self) -> bool:
        """Whether config.tau_threshold was calibrated for the exported model."""
        return self.metadata.calibrated

    def predict(
        self,
        pixels: arrays.Pixels,
        *,
        noise: NDArray[np.float32] | None = None,
        seed: int | None = None,
        first_image: int = 0,
        tau_threshold: ArrayLike | None = None,
        with_delta: bool = False,
    ) -> Prediction[NDArray[Any]]:
        """Classifies pixels [N, 3, H, W], uint8 or float in [0, 1]; N may be 0, and is any for every file.

        noise, seed, first_image: as for `DefendedClassifier.predict`, with the same noise for the same seed
        (in l-inf to the bit); for files that take noise. tau_threshold: in place of the config's, for all
        images or one for each, [N]; the prediction then says calibrated=False. with_delta: keep the
        counter-perturbation. Both for files of the profile "lab".

        Raises InputError for bad pixels, noise and thresholds, for floats where the file takes uint8, for
        what the file does not take, and for answers that are not finite; ArtifactError where the file
        fails, or gives other outputs than it says.
        """
        x = arrays.check_pixels(pixels, self.image_size)
        if self.metadata.pixels == "float32":
            x = arrays.as_unit(x)
        elif x.dtype != np.uint8:
            raise InputError(f"{self.path} takes uint8 pixels, got {pixels.dtype}")
        inputs: dict[str, NDArray[Any]] = {"pixels": x}
        if self._takes("noise"):
            inputs["noise"] = self._noise(x, noise, seed, first_image)
        elif noise is not None or seed is not None:
            raise InputError(self._only_in_lab("seed" if noise is None else "noise"))
        if self._takes("tau_threshold"):
            threshold = self.config.tau_threshold if tau_threshold is None else tau_threshold
            inputs["tau_threshold"] = arrays.thresholds(threshold, len(x))
        elif tau_threshold is not None:
            raise InputError(self._only_in_lab("tau_threshold"))
        if with_delta and all(port.name != "delta" for port in self._outputs):
            if self.metadata.profile == "serving":
                raise InputError(self._only_in_lab("with_delta"))
            given = ", ".join(port.name for port in self._outputs)
            raise InputError(f"with_delta needs a file with the output delta, {self.path} gives {given}")
        answer = self._answer([inputs[port.name] for port in self._inputs], len(x))
        _check_finite(answer)
        prediction = Prediction(
            logits=answer["logits"],
            undefended_logits=answer.get("undefended_logits", np.full_like(answer["logits"], np.nan)),
            embedding=answer.get("embedding"),
            drift=answer["drift"],
            countered=answer["countered"],
            delta=answer["delta"] if with_delta else None,
            classnames=self.classnames,
            calibrated=self.calibrated and tau_threshold is None,
        )
        self._stats.add(prediction)
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("countered %d of %d images", prediction.countered.sum(), len(x))
        return prediction

    def stats(self) -> Stats:
        """Images, countered, changed and the drift histogram since the start or `reset_stats`, and what runs
        where.
        """
        return dataclasses.replace(self._stats.read(), placed=self._placed.copy())

    def reset_stats(self) -> None:
        """Sets the counts of `stats` back to zero."""
        self._stats.reset()

    def __repr__(self) -> str:
        height, width = self.image_size
        return (
            f"{type(self).__name__}({str(self.path)!r}, {self.metadata.profile}, "
            f"{len(self.classnames)} classes, {height} x {width} pixels as {self.metadata.pixels})"
        )

    @abstractmethod
    def _run(self, inputs: Sequence[NDArray[Any]]) -> Sequence[Any]:
        """The file's outputs for its inputs, in the order of its ports; may raise anything."""

    def _takes(self, name: str) -> bool:
        return any(port.name == name for port in self._inputs)

    def _only_in_lab(self, option: str) -> str:
        return f"{option} needs a file exported with --profile lab, {self.path} is of the profile serving"

    def _noise(
        self, x: NDArray[Any], noise: NDArray[np.float32] | None, seed: int | None, first_image: int
    ) -> NDArray[np.float32]:
        check_one_source(noise, seed)
        if noise is not None:
            return arrays.check_noise(noise, x, self.config)
        keys = self._source.keys(
            len(x), seed=seed, first_image=first_image, pictures=lambda: arrays.as_unit(x)
        )
        if keys is None:
            return arrays.fresh_noise(x.shape, self.config)
        return arrays.draw_noise(keys, x.shape, self.config)

    def _answer(self, inputs: list[NDArray[Any]], n: int) -> dict[str, NDArray[Any]]:
        """The outputs for n images by name, in pieces of the file's batch where it is fixed."""
        answer = {port.name: np.empty(_shape(port, n), port.dtype) for port in self._outputs}
        size = self.metadata.batch or n
        for first in range(0, n, size or 1):
            rows = [_filled(array[first : first + size], size) for array in inputs]
            try:
                outputs = self._run(rows)
            except Exception as error:  # runtimes raise whatever they stumble over
                raise ArtifactError(f"{self.path}: running it failed: {one_line(error)}") from error
            self._check_outputs(outputs, size)
            for port, output in zip(self._outputs, outputs, strict=True):
                answer[port.name][first : first + size] = output[: n - first]
        return answer

    def _check_outputs(self, outputs: Sequence[Any], n: int) -> None:
        expected = [(port.dtype, list(_shape(port, n))) for port in self._outputs]
        got = [(str(output.dtype), list(output.shape)) for output in outputs]
        if got != expected:
            names = ", ".join(port.name for port in self._outputs)
            raise ArtifactError(f"{self.path}: expected {names} as {expected}, got {got}")


def _shape(port: Port, n: int) -> tuple[int, ...]:
    """A port's shape for n images."""
    return (n, *(size for size in port.shape[1:] if size is not None))


def _filled(rows: NDArray[Any], size: int) -> NDArray[Any]:
    """Rows up to a fixed batch, by copies of the last."""
    if len(rows) == size:
        return rows
    return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)])


def _check_finite(answer: dict[str, NDArray[Any]]) -> None:
    drift = answer["drift"]
    usable = np.isfinite(drift)
    for name in ("logits", "undefended_logits", "embedding"):
        if name in answer:
            usable &= np.isfinite(answer[name]).all(axis=1)
    if not usable.all():
        rows = np.flatnonzero(~usable)[:4]
        raise InputError(
            f"expected a finite drift and logits, got drift {drift[rows].tolist()} for images "
            f"{rows.tolist()}: the model gives no usable embedding for them"
        )
