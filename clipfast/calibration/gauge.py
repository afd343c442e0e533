"""Measures drift, and what a defence answers on either side of its gate."""

from __future__ import annotations

import dataclasses

import numpy as np
from torch import Tensor

from ..classifier import DefendedClassifier
from .threshold import Measured, Right

__all__ = ["Gauge"]


class Gauge:
    """Measures drift with a classifier, and with labels what it answers on either side of its gate.

    Args:
        classifier: The classifier, whose threshold is not used.
    """

    def __init__(self, classifier: DefendedClassifier) -> None:
        closed = dataclasses.replace(classifier.config, tau_threshold=0.0)
        self._reading = None
        if closed.early_threshold is not None:
            tokens = dataclasses.replace(closed, early_threshold=None, pass_through="clean")
            self._reading = classifier.with_config(tokens, on_trial=True)
            closed = dataclasses.replace(closed, gate_depth=None, early_threshold=None)
        self._passing, self._countering = (
            classifier.with_config(c, on_trial=True) for c in (closed, closed.ungated())
        )

    def __call__(
        self, pixels: Tensor, labels: Tensor | None = None, *, seed: int, first_image: int = 0
    ) -> Measured:
        """Measures pictures.

        Args:
            pixels: [N, 3, H, W], uint8, or float in [0, 1].
            labels: int64 [N], or None not to judge answers.
            seed: The seed of the noise; see `DefendedClassifier.predict`.
            first_image: The index of the first image; see `DefendedClassifier.predict`.

        Returns:
            The drifts, and with labels which pictures are right.

        Raises:
            InputError: As for `DefendedClassifier.predict`.
        """
        passed = self._passing.predict(
            pixels, seed=seed, first_image=first_image, with_undefended=labels is not None
        )
        drift, tokens = passed.drift.cpu().numpy().astype(np.float32), None
        if self._reading is not None:
            read = self._reading.predict(pixels, seed=seed, first_image=first_image)
            tokens = read.drift.cpu().numpy().astype(np.float32)
        if labels is None:
            return Measured(drift=drift, tokens=tokens)
        countered = self._countering.predict(pixels, seed=seed, first_image=first_image)
        logits = (passed.undefended_logits, passed.logits, countered.logits)
        truth = labels.cpu()
        right = Right(*((x.argmax(1).cpu() == truth).numpy() for x in logits))
        return Measured(drift=drift, tokens=tokens, right=right)
