"""Whether an exported file answers as the eager reference does."""

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

    classifier: what was exported, whatever its implementation. runtime: what runs the file, see
    `clipfast.runtime.load_artifact`. images: pixels [N, 3, H, W], uint8 or float in [0, 1]; by default twelve
    drawn ones, two where the runtime is slow. They are compared clean and under PGD on the undefended model.
    tolerance: the largest difference of logits that no sign comes before, in the place of the limit of the
    file's precision (see `clipfast.verification.limits`). trust: see `load_artifact`, too. progress: called
    with a message at each step.

    A file that takes noise gets the reference's, in batches of 1, 3 and up to 32 images, with the gate
    closed, open and mixed where it takes thresholds. One that draws its own noise is compared by averages
    over 16 draws a picture, which tell large errors alone, such as steps or noise of twice the size: verify a
    "lab" file of the same classifier too.

    Raises ArtifactError for a file that cannot be read, that fails, or that was exported from another
    classifier; InputError for bad images.
    """
    session = load_on_device(path, classifier.device, runtime=runtime, trust=trust)
    return Comparison(classifier, images).of(session, progress, tolerance=tolerance)


class Comparison:
    """What exported files of one classifier are compared with: pictures, and the reference's answers.

    classifier, images: see `verify`. Both are made once, however many runtimes are compared.
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
        """`verify` of a file that was loaded already."""
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
        except InputError as error:  # of what the file answers: what it was given is all right
            raise ArtifactError(f"{path}: {error}") from error

    def _attacked(self, drawn: int) -> Tensor:
        """Each picture and, after it, its attacked form: float32 [2N, 3, H, W] on the classifier's device.

        drawn: N, where no images were given.
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
    """Raises ArtifactError where a file was exported from another classifier."""
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
