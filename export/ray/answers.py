"""What each picture of a batch gets: its own answer, or its own reason for having none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipfast.errors import ArtifactError, InputError
from clipfast.inputs.rules import NoisePolicy
from clipfast.runtime import OnnxClassifier

__all__ = ["Answer", "NoAnswer", "answers", "load"]

NoAnswer = InputError | ArtifactError


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The defended answer for one picture.

    top: (label, probability in [0, 1]), the most probable first. drift: tau, no unit.
    """

    top: list[tuple[str, float]]
    drift: float
    countered: bool
    changed: bool


def load(
    artifact: Path,
    *,
    sha256: str | None = None,
    threads: int | None = None,
    noise_key: Path | None = None,
) -> OnnxClassifier:
    """An exported classifier.

    sha256: the digest that it must have, so that whichever worker reads it, and when, it is the same.
    threads: of one operator; None is ONNX Runtime's choice. noise_key: a file of 16 to 64 secret bytes; the
    noise then follows from it and a picture's content, so that the same picture gets the same answer from
    every worker. Raises ArtifactError and InputError as `OnnxClassifier` does, and InputError for a key
    that cannot be read.
    """
    policy: NoisePolicy = "fresh" if noise_key is None else "content"
    return OnnxClassifier(artifact, sha256=sha256, threads=threads, noise_policy=policy, noise_key=noise_key)


def answers(
    classifier: OnnxClassifier, pixels: NDArray[np.uint8], *, topk: int = 1
) -> list[Answer | NoAnswer]:
    """Classifies pixels, uint8 [N, 3, H, W] at the classifier's size; N results in their order.

    topk: labels in an answer, at least 1. A batch that fails is run again picture by picture, so that a
    picture for which the model has no usable embedding fails alone. It then has no answer, never the
    undefended one. Raises InputError for a topk below 1.
    """
    try:
        prediction = classifier.predict(pixels)
    except (InputError, ArtifactError) as error:
        if len(pixels) == 1:
            return [error]
        return [answer for row in pixels for answer in answers(classifier, row[None], topk=topk)]
    columns = prediction.topk(topk), prediction.drift, prediction.countered, prediction.changed
    return [
        Answer(top=top, drift=float(drift), countered=bool(countered), changed=bool(changed))
        for top, drift, countered, changed in zip(*columns, strict=True)
    ]
