"""Exported classifiers, the same way for every runtime: numpy in, a Prediction out. Needs no torch."""

from __future__ import annotations

import dataclasses
import logging
import os
import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..config import CounterattackConfig
from ..errors import ArtifactError, InputError, UncalibratedWarning, uncalibrated
from ..inputs import arrays
from ..inputs.noise import NoiseSource, check_one_source
from ..inputs.rules import NoiseKey, NoisePolicy
from ..prediction import Prediction, Stats, StatsRecorder, tally
from ..preprocess import Preprocess
from .metadata import Metadata
from .running import check_ports, pixels_taken, read_metadata, run_in_batches
from .sessions.session import Session

__all__ = ["ArtifactClassifier"]

_log = logging.getLogger(__name__)


class ArtifactClassifier:
    """A defended classifier read from an exported file, over any runtime.

    Many threads may call `predict` of one classifier at once. A test-time defence is not a certified one;
    see `metadata.limits`.

    Warns with UncalibratedWarning if the threshold was not calibrated for the exported model.

    Args:
        session: The file, loaded in its runtime.
        noise_policy: As for `DefendedClassifier`. "content" needs a file that takes noise as an input:
            one of the profile "lab", or a static one.
        noise_key: As for `DefendedClassifier`.

    Attributes:
        path: The exported file.
        metadata: What the file says about itself.

    Raises:
        ArtifactError: If the file carries no metadata of a defended classifier, its metadata has a newer
            schema, or its inputs and outputs are not those of its metadata.
        InputError: If the policy or key is not valid, or the policy is "content" and the file draws its
            noise itself.
    """

    def __init__(
        self, session: Session, *, noise_policy: NoisePolicy = "fresh", noise_key: NoiseKey = None
    ) -> None:
        self._take(session, NoiseSource(noise_policy, noise_key))
        if noise_policy == "content" and not self._takes("noise"):
            raise InputError(self._only_in_lab("noise_policy 'content'"))
        if not self.calibrated:
            # The warning points at the caller of the subclass.
            warnings.warn(uncalibrated(self.config.tau_threshold), UncalibratedWarning, stacklevel=3)

    def _take(self, session: Session, source: NoiseSource) -> None:
        self._session, self._source = session, source
        self.path = session.path
        self.metadata = read_metadata(session, Metadata.from_json)
        self._inputs, self._outputs = self.metadata.ports
        check_ports(session, self._inputs, self._outputs)
        self._stats = StatsRecorder()

    def __getstate__(self) -> tuple[Session, NoiseSource]:
        return self._session, self._source  # all else is read from the file when it is loaded again

    def __setstate__(self, state: tuple[Session, NoiseSource]) -> None:
        self._take(*state)

    @property
    def noise_policy(self) -> NoisePolicy:
        """How noise is drawn if a call gives none: "fresh" or "content"."""
        return self._source.policy

    @property
    def classnames(self) -> tuple[str, ...]:
        """The C class names, in the order of the logits."""
        return self.metadata.classnames

    @property
    def config(self) -> CounterattackConfig:
        """The settings that the file was exported with."""
        return self.metadata.config

    @property
    def preprocess(self) -> Preprocess:
        """The transform from image files to the pixels that the file takes."""
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
        """Classifies pixels.

        `noise`, `seed` and `first_image` are for files that take noise as an input. For the same seed the
        noise is that of `DefendedClassifier.predict`, equal to the bit in l-inf. `tau_threshold` and
        `with_delta` are for files of the profile "lab".

        Args:
            pixels: [N, 3, H, W], uint8, or float in [0, 1]. N may be 0, and any N is possible for every
                file.
            noise: The caller's own noise, float [N, 3, H, W] within the config's eps, in [0, 1] pixel
                units.
            seed: Makes the call reproducible; an integer from 0 to 2^64 - 1. Image i's noise then depends
                on the seed and `first_image` + i alone.
            first_image: The index of the first image under the seed, from 0 to 2^32 - N.
            tau_threshold: Replaces the config's threshold: one number of at least 0 for all images, or
                one for each, [N]. The prediction then has `calibrated` False.
            with_delta: Whether the prediction keeps the counter-perturbation.

        Returns:
            The prediction, as numpy arrays. `undefended_logits` are NaN and `embedding` is None if the
            file does not give them.

        Raises:
            InputError: If pixels, noise, seed, `first_image` or thresholds are not valid; both noise and
                a seed are given; pixels are floats although the file takes uint8; the file lacks the
                input or output that an argument needs; or the file's drift, logits or embedding are not
                finite.
            ArtifactError: If the file fails, gives other outputs than its metadata names, or counters by
                a threshold other than the given one; or it draws its own noise in a process that was
                forked after it was loaded.
        """
        if os.getpid() != self._session.pid and self._draws:
            raise ArtifactError(
                f"{self.path}: it draws its own noise and was loaded before this process was forked, which "
                "would draw the same as the others: load it in each process"
            )
        x = pixels_taken(self.path, pixels, self.image_size, self.metadata.pixels)
        inputs: dict[str, NDArray[Any]] = {"pixels": x}
        if self._takes("noise"):
            inputs["noise"] = self._noise(x, noise, seed, first_image)
        elif noise is not None or seed is not None:
            raise InputError(self._only_in_lab("seed" if noise is None else "noise"))
        threshold = arrays.thresholds(
            self.config.tau_threshold if tau_threshold is None else tau_threshold, len(x)
        )
        if self._takes("tau_threshold"):
            inputs["tau_threshold"] = threshold
        elif tau_threshold is not None:
            raise InputError(self._only_in_lab("tau_threshold"))
        if with_delta and all(port.name != "delta" for port in self._outputs):
            if self.metadata.profile == "serving":
                raise InputError(self._only_in_lab("with_delta"))
            given = ", ".join(port.name for port in self._outputs)
            raise InputError(f"with_delta needs a file with the output delta, {self.path} gives {given}")
        answer = run_in_batches(
            self._session,
            {port.name: inputs[port.name] for port in self._inputs},
            self._outputs,
            batch=self.metadata.batch,
        )
        return self._prediction(
            answer,
            threshold,
            calibrated=self.calibrated and tau_threshold is None,
            with_delta=with_delta,
        )

    def stats(self) -> Stats:
        """Returns the counts since the start or the last `reset_stats`.

        They are the numbers of images, countered images and changed answers, and the drift histogram.
        `placed` tells how many nodes of the file's graph run on each device or provider.
        """
        return dataclasses.replace(self._stats.read(), placed=dict(self._session.placed))

    def reset_stats(self) -> None:
        """Sets the counts of `stats` back to zero."""
        self._stats.reset()

    def __repr__(self) -> str:
        height, width = self.image_size
        return (
            f"{type(self).__name__}({str(self.path)!r}, {self.metadata.profile}, "
            f"{len(self.classnames)} classes, {height} x {width} pixels as {self.metadata.pixels})"
        )

    def _prediction(
        self,
        answer: dict[str, NDArray[Any]],
        threshold: NDArray[np.float32],
        *,
        calibrated: bool,
        with_delta: bool = False,
    ) -> Prediction[NDArray[Any]]:
        """The file's outputs by name, checked, counted and in clipfast's form. threshold: [N]."""
        _check_finite(answer)
        self._check_gate(answer, threshold)
        prediction = Prediction(
            logits=answer["logits"],
            undefended_logits=answer.get("undefended_logits", np.full_like(answer["logits"], np.nan)),
            embedding=answer.get("embedding"),
            drift=answer["drift"],
            countered=answer["countered"],
            delta=answer["delta"] if with_delta else None,
            classnames=self.classnames,
            calibrated=calibrated,
        )
        self._stats.add(tally(prediction))
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("countered %d of %d images", prediction.countered.sum(), len(prediction))
        return prediction

    def _check_gate(self, answer: dict[str, NDArray[Any]], threshold: NDArray[np.float32]) -> None:
        """Raises ArtifactError if a file counters other images than those below its threshold."""
        wrong = np.flatnonzero(answer["countered"] != (answer["drift"] < threshold))
        if len(wrong):
            i = wrong[0]
            raise ArtifactError(
                f"{self.path}: its metadata and its graph have other thresholds: an image of drift "
                f"{answer['drift'][i]:.6g} was {'' if answer['countered'][i] else 'not '}countered, the "
                f"threshold is {threshold[i]:.6g}"
            )

    @property
    def _draws(self) -> bool:
        """Whether the file draws noise itself."""
        return self.config.is_randomised() and not self._takes("noise")

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
