"""Verifies that an exported classifier answers as the eager reference does."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..artifacts.classifier import ArtifactClassifier
from ..artifacts.metadata import Metadata
from ..artifacts.sessions.session import Session
from ..attacks import pgd
from ..classifier import DefendedClassifier
from ..errors import ArtifactError, InputError, UncalibratedWarning
from ..inputs import arrays
from ..models.fingerprint import fingerprint
from .limits import limits_of
from .loading import load_on_device
from .outcome import Verification
from .paired import paired_rows
from .pictures import checked_pictures, drawn_pictures
from .sampled import sampled_rows
from .sides import MOST, Reference, takes

__all__ = ["Comparison", "verify"]

_PICTURES, _PICTURES_WHERE_SLOW = 12, 2
_ATTACK_EPS, _ATTACK_STEP_SIZE, _ATTACK_STEPS = 2 / 255, 1 / 255, 3


def verify(
    path: str | os.PathLike[str],
    classifier: DefendedClassifier,
    *,
    runtime: str = "auto",
    images: arrays.Pixels | None = None,
    tolerance: float | None = None,
    trust: bool = False,
    progress: Callable[[str], object] | None = None,
) -> Verification:
    """Runs an exported file and `clipfast.reference` on the same pictures and compares their answers.

    The pictures are compared clean and under PGD on the undefended model.

    A file that takes noise gets the reference's noise, in batches of 1, 3 and up to 32 images; if it
    takes thresholds, with the gate closed, open and mixed. A file that draws its own noise is compared by
    averages over 16 draws of a picture. These show large errors alone, such as twice the steps or twice
    the noise. So verify a "lab" file of the same classifier too.

    Args:
        path: The exported file.
        classifier: The classifier that was exported, with any implementation.
        runtime: The runtime for the file; see `clipfast.runtime.load_artifact`.
        images: [N, 3, H, W], uint8, or float in [0, 1]. None takes twelve drawn pictures, or two in a
            slow runtime.
        tolerance: The largest difference of logits that depend on no sign. None takes the limit of the
            file's precision; see `clipfast.verification.limits`.
        trust: Whether the file's code may run; see `clipfast.runtime.load_artifact`.
        progress: Called with a message at each step.

    Returns:
        The checks and whether they passed.

    Raises:
        ArtifactError: If the file cannot be read, fails, gives answers that are not finite, or was
            exported from another classifier.
        InputError: If the images are not valid, or there are none; or the runtime does not run such
            files.
        ModuleNotFoundError: If the runtime's package is not installed. The message names the extra.
    """
    session = load_on_device(path, classifier.device, runtime=runtime, trust=trust)
    return Comparison(classifier, images).of(session, progress, tolerance=tolerance)


class Comparison:
    """Compares exported files of one classifier with the reference, on the same pictures.

    The pictures and the reference's last answers are kept for the next runtime that is compared.

    Args:
        classifier: The classifier that was exported, with any implementation.
        images: As for `verify`.
    """

    def __init__(self, classifier: DefendedClassifier, images: arrays.Pixels | None = None) -> None:
        self._classifier = classifier
        self._images = images
        self._reference = Reference(classifier)
        self._pictures: dict[int, Tensor] = {}

    def of(
        self,
        session: Session,
        progress: Callable[[str], object] | None = None,
        *,
        tolerance: float | None = None,
    ) -> Verification:
        """Compares a loaded file with the reference, as `verify` does.

        Args:
            session: The loaded file.
            progress: Called with a message at each step.
            tolerance: As for `verify`.

        Returns:
            The checks and whether they passed.

        Raises:
            ArtifactError: If the file carries no metadata of a defended classifier, fails, gives answers
                that are not finite, or was exported from another classifier.
            InputError: If the images are not valid, or there are none.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UncalibratedWarning)  # the classifier gave its own
            artifact = ArtifactClassifier(session)
        path, metadata, classifier = artifact.path, artifact.metadata, self._classifier
        _check_origin(path, metadata, classifier)
        progress = progress or (lambda _: None)
        progress("attacking the pictures to compare on")
        pictures = self._attacked(_PICTURES_WHERE_SLOW if session.is_slow else _PICTURES)
        if metadata.pixels == "uint8":
            pictures = (pictures * 255).round().to(torch.uint8)
        limits = limits_of(metadata.precision, metadata.config, classifier.logit_scale.item(), tolerance)
        rows_of = paired_rows if takes(artifact, "noise") else sampled_rows
        try:
            return Verification(tuple(rows_of(artifact, self._reference, pictures, limits, progress)))
        except InputError as error:  # about the file's answers, because the pictures were checked
            raise ArtifactError(f"{path}: {error}") from error

    def _attacked(self, drawn: int) -> Tensor:
        """Each picture and, after it, its attacked form: float32 [2N, 3, H, W] on the model's device.

        drawn: N, if no images were given.
        """
        number = drawn if self._images is None else len(self._images)
        if number not in self._pictures:
            self._pictures[number] = self._attack(number)
        return self._pictures[number]

    def _attack(self, number: int) -> Tensor:
        classifier = self._classifier
        images = drawn_pictures(number, classifier.image_size) if self._images is None else self._images
        clean = checked_pictures(images, classifier.image_size, classifier.device)
        generator = torch.Generator().manual_seed(0)
        attacked = [
            pgd(
                classifier.undefended,
                x,
                classifier.undefended(x).argmax(1),
                eps=_ATTACK_EPS,
                step_size=_ATTACK_STEP_SIZE,
                steps=_ATTACK_STEPS,
                generator=generator,
            )
            for x in clean.split(MOST)
        ]
        return torch.stack([clean, torch.cat(attacked)], dim=1).flatten(0, 1)


def _check_origin(path: Path, metadata: Metadata, classifier: DefendedClassifier) -> None:
    """Raises ArtifactError if a file was exported from another classifier."""
    drift_tower = classifier.drift_tower
    here = {
        "weights_sha256": fingerprint(classifier.image_tower.model.visual),
        "drift_weights_sha256": None if drift_tower is None else fingerprint(drift_tower.model.visual),
        "classnames": classifier.classnames,
        "config": classifier.config,
        "calibrated": classifier.calibrated,
        "preprocess": classifier.preprocess,
    }
    for name, value in here.items():
        said = getattr(metadata, name)
        if said != value:
            raise ArtifactError(
                f"{path} was exported from another classifier: its metadata has {name} {said!s:.300}, "
                f"expected {value!s:.300}"
            )
