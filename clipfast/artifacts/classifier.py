"""Exported classifiers whatever runs them: numpy in, a Prediction out. Needs no torch."""

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
from ..prediction import Prediction, Stats, StatsRecorder
from ..preprocess import Preprocess
from .metadata import Metadata
from .running import check_ports, pixels_taken, read_metadata, run_in_batches
from .sessions.session import Session

__all__ = ["ArtifactClassifier"]

_log = logging.getLogger(__name__)


class ArtifactClassifier:
    """A defended classifier read from an exported file, whatever runs it.

    session: the file in its runtime. noise_policy, noise_key: as for `DefendedClassifier`, where the file
    takes noise as an input (profile "lab", and static files). metadata: what the file says about itself.

    Many threads may call `predict` of one classifier at once. Warns with UncalibratedWarning where the
    threshold was not calibrated for the exported model. Raises ArtifactError for a file without metadata of
    a defended classifier, of a newer schema, or whose inputs and outputs are not those of its metadata;
    InputError for a bad policy or key, and for the policy "content" where the file draws its noise itself.

    A test-time defence is not a certified one: `metadata.limits`.
    """

    def __init__(
        self, session: Session, *, noise_policy: NoisePolicy = "fresh", noise_key: NoiseKey = None
    ) -> None:
        self._take(session, NoiseSource(noise_policy, noise_key))
        if noise_policy == "content" and not self._takes("noise"):
            raise InputError(self._only_in_lab("noise_policy 'content'"))
        if not self.calibrated:
            # Up to who called the subclass.
            warnings.warn(uncalibrated(self.config.tau_threshold), UncalibratedWarning, stacklevel=3)

    def _take(self, session: Session, source: NoiseSource) -> None:
        self._session, self._source = session, source
        self.path = session.path
        self.metadata = read_metadata(session, Metadata.from_json)
        self._inputs, self._outputs = self.metadata.ports
        check_ports(session, self._inputs, self._outputs)
        self._stats = StatsRecorder()

    def __getstate__(self) -> tuple[Session, NoiseSource]:
        return self._session, self._source  # the rest is what the file says when it is loaded again

    def __setstate__(self, state: tuple[Session, NoiseSource]) -> None:
        self._take(*state)

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
        fails, gives other outputs than it says or counters by another threshold, and where it draws its own
        noise in a process that was forked after it was loaded.
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
        """Images, countered, changed and the drift histogram since the start or `reset_stats`, and what runs
        where.
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
        self._stats.add(prediction)
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("countered %d of %d images", prediction.countered.sum(), len(prediction))
        return prediction

    def _check_gate(self, answer: dict[str, NDArray[Any]], threshold: NDArray[np.float32]) -> None:
        """Raises ArtifactError where a file counters other images than those below its threshold."""
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
