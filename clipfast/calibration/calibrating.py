"""Calibrates a classifier on folders of pictures: attacks and measures them, then sets the threshold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import __version__
from ..attacks.pgd10 import PGD_STEP_SIZE, PGD_STEPS, attack_in_chunks
from ..attacks.system import undefended
from ..classifier import DefendedClassifier
from ..config import CounterattackConfig
from ..errors import InputError
from ..inputs.tensors import as_unit
from ..preprocess import image_files
from .gauge import Gauge
from .threshold import Calibration, Measured, calibrate

__all__ = [
    "Batches",
    "CalibrationRequest",
    "Pictures",
    "calibrate_folders",
    "files_below",
    "folder_labels",
    "measure",
    "pictures_of",
    "set_threshold",
]

# Reads files in batches: files -> the readable ones and their pixels, uint8 [N, 3, H, W], batch by batch.
Batches = Callable[[list[Path]], Iterable[tuple[Sequence[Path], NDArray[Any]]]]


@dataclass(frozen=True, kw_only=True)
class CalibrationRequest:
    """What to calibrate on and how.

    Attributes:
        clean: A folder of clean pictures.
        attacked: A folder of attacked pictures, or None.
        attack_eps: The l-inf budget, in [0, 1] pixel units, of PGD-10 on the undefended model, or None
            for no attack.
        rate: The share of clean pictures that may be countered, or None with `balanced`.
        balanced: Whether to set the best balanced accuracy.
        labels: Whether pictures lie in folders that are named as the classes.
        attacked_share: The share of attacked images in the traffic that the expected cost is for, in
            [0, 1].
        seed: The seed of noise, attack and bootstraps.

    Raises:
        InputError: If both a folder of attacked pictures and an attack are given; both a rate and
            balanced accuracy, or neither; or balanced accuracy or a positive `attacked_share` without
            attacked pictures.
    """

    clean: Path
    attacked: Path | None = None
    attack_eps: float | None = None
    rate: float | None = 0.05
    balanced: bool = False
    labels: bool = False
    attacked_share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.attacked is not None and self.attack_eps is not None:
            raise InputError("expected a folder of attacked pictures or an attack, got both")
        if self.balanced == (self.rate is not None):
            got = "both" if self.balanced else "neither"
            raise InputError(f"expected a rate or the best balanced accuracy, got {got}")
        if self.attacked is None and self.attack_eps is None and (self.balanced or self.attacked_share > 0):
            raise InputError(
                "balanced accuracy and a share of attacked traffic need attacked pictures: "
                "expected a folder of them or an attack, got neither"
            )

    @property
    def folders(self) -> list[Path]:
        """The folders that are read: that of clean pictures, and that of attacked ones if it is given."""
        return [self.clean, *([] if self.attacked is None else [self.attacked])]


def calibrate_folders(
    classifier: DefendedClassifier,
    request: CalibrationRequest,
    batches: Batches,
    *,
    total: Callable[[int], object] | None = None,
) -> Calibration:
    """Measures the pictures of a request and sets the threshold.

    Args:
        classifier: The classifier to calibrate.
        request: The pictures and how to set the threshold.
        batches: Reads files.
        total: Called with the number of files.

    Returns:
        The calibration, whose config has the new threshold.

    Raises:
        InputError: If the config has no gate; a folder is missing or holds no pictures; class folders are
            not named as the classes; no picture can be read; or as for `calibrate`.
    """
    if classifier.config.gate == "none":
        raise InputError("expected settings with a gate, got gate 'none': it needs no threshold")
    roots = request.folders
    files = [files_below(root) for root in roots]
    labels = [
        folder_labels(root, found, classifier.classnames) if request.labels else None
        for root, found in zip(roots, files, strict=True)
    ]
    if total is not None:
        total(sum(map(len, files)))
    clean, attacked = measure(
        classifier, batches(files[0]), labels=labels[0], attack_eps=request.attack_eps, seed=request.seed
    )
    skipped = len(files[0]) - len(clean)
    if request.attacked is not None:
        attacked, _ = measure(classifier, batches(files[1]), labels=labels[1], seed=request.seed)
        skipped += len(files[1]) - len(attacked)
    return set_threshold(classifier, request, classifier.config, clean, attacked, skipped)


def set_threshold(
    classifier: DefendedClassifier,
    request: CalibrationRequest,
    config: CounterattackConfig,
    clean: Measured,
    attacked: Measured | None,
    skipped: int,
) -> Calibration:
    """Calls `calibrate` as a request has it, for what a classifier measured with a config.

    Args:
        classifier: The classifier that measured drift.
        request: How to set the threshold, and the facts that the figures are quoted with.
        config: The settings that drift was measured with.
        clean: What was measured of clean pictures.
        attacked: What was measured of attacked pictures, or None if there are none.
        skipped: The number of files that could not be read.

    Returns:
        The calibration, whose config has the new threshold.

    Raises:
        InputError: As for `calibrate`.
    """
    return calibrate(
        clean,
        attacked,
        config=config,
        weights=classifier.drift_weights,
        rate=request.rate,
        attacked_share=request.attacked_share,
        drift_encoder=classifier.drift_tower is not None,
        blocks=classifier.measuring_tower.blocks,
        run=_quoted(classifier, request, skipped),
        seed=request.seed,
    )


def measure(
    classifier: DefendedClassifier,
    batches: Iterable[tuple[Sequence[Path], NDArray[Any]]],
    *,
    labels: Mapping[Path, int] | None = None,
    attack_eps: float | None = None,
    seed: int = 0,
) -> tuple[Measured, Measured | None]:
    """Measures what a gate and its branches make of pictures, and of the same pictures attacked.

    A picture's noise depends on the seed and its place in the list alone.

    Args:
        classifier: The classifier whose gate is measured.
        batches: Files and their pixels, [N, 3, H, W], uint8, or float in [0, 1].
        labels: The class of each file; without them no answer is judged.
        attack_eps: As in `CalibrationRequest`.
        seed: The seed of noise and attack.

    Returns:
        What was measured of the pictures, and of the same pictures attacked; None for the latter without
        an attack.

    Raises:
        InputError: If there are no pictures; or as for `DefendedClassifier.predict`.
    """
    gauge = Gauge(classifier)
    clean: list[Measured] = []
    attacked: list[Measured] = []
    for part in pictures_of(classifier, batches, labels=labels, attack_eps=attack_eps, seed=seed):
        clean.append(gauge(part.clean, part.labels, seed=seed, first_image=part.first))
        if part.attacked is not None:
            attacked.append(gauge(part.attacked, part.labels, seed=seed, first_image=part.first))
    if not clean:
        raise InputError("expected at least one picture that can be read, got none")
    return Measured.joined(clean), Measured.joined(attacked) if attacked else None


class Pictures(NamedTuple):
    """N pictures of a list, and the same pictures attacked.

    Attributes:
        first: The place of the first picture in the list.
        clean: [N, 3, H, W], uint8, or float in [0, 1], on the classifier's device.
        attacked: float32 [N, 3, H, W] in [0, 1] on the classifier's device, or None without an attack.
        labels: int64 [N] on the CPU, or None without labels.
    """

    first: int
    clean: Tensor
    attacked: Tensor | None
    labels: Tensor | None


def pictures_of(
    classifier: DefendedClassifier,
    batches: Iterable[tuple[Sequence[Path], NDArray[Any]]],
    *,
    labels: Mapping[Path, int] | None = None,
    attack_eps: float | None = None,
    seed: int = 0,
) -> Iterator[Pictures]:
    """Attacks pictures, a batch at a time.

    Args:
        classifier: The classifier whose undefended model is attacked.
        batches: Files and their pixels, [N, 3, H, W], uint8, or float in [0, 1].
        labels: The class of each file. Without them the attack moves away from the label that undefended
            CLIP predicts.
        attack_eps: As in `CalibrationRequest`; None attacks nothing.
        seed: The seed of the attack.

    Yields:
        The pictures of each batch, clean and attacked.
    """
    attackable, done = undefended(classifier), 0
    for files, array in batches:
        pixels = torch.from_numpy(array).to(classifier.device)
        truth = None if labels is None else torch.tensor([labels[file] for file in files])
        broken = None
        if attack_eps is not None:
            x = as_unit(pixels)
            with torch.no_grad():
                away_from = classifier.undefended(x).argmax(1) if truth is None else truth.to(x.device)
            broken = attack_in_chunks(
                attackable, x, away_from, eps=attack_eps, chunk=len(x), seed=seed + done
            )
        yield Pictures(done, pixels, broken, truth)
        done += len(files)


def folder_labels(root: Path, files: Iterable[Path], classnames: Sequence[str]) -> dict[Path, int]:
    """Returns the class of each file, by the folder right below `root` that it lies in.

    The folder is named as the class, with spaces or underscores.

    Args:
        root: The folder of class folders.
        files: Files below `root`.
        classnames: The class names.

    Returns:
        The index of each file's class.

    Raises:
        InputError: If a file lies in no folder below `root`, or in one that is not named as a class.
    """
    known = {name.replace(" ", "_"): index for index, name in enumerate(classnames)}
    labels = {}
    for file in files:
        place = file.relative_to(root)
        index = known.get(place.parts[0].replace(" ", "_")) if len(place.parts) > 1 else None
        if index is None:
            raise InputError(
                f"expected pictures in folders named as the classes below {root}, got {place}; "
                f"the {len(classnames)} classes begin: {', '.join(classnames[:4])}"
            )
        labels[file] = index
    return labels


def files_below(root: Path) -> list[Path]:
    """Returns the pictures in a folder and in those below it, in sorted order.

    Raises:
        InputError: If there is no such folder, or it holds no pictures.
    """
    if not root.is_dir():
        raise InputError(f"expected a folder of pictures, got {root}")
    return list(image_files([root]))


def _quoted(classifier: DefendedClassifier, request: CalibrationRequest, skipped: int) -> dict[str, Any]:
    """The facts that the figures are quoted with."""
    attack = None
    if request.attack_eps is not None:
        away_from = "the true label" if request.labels else "the predicted label"
        attack = f"PGD-{PGD_STEPS}, step {PGD_STEP_SIZE * 255:g}/255, undefended model, away from {away_from}"
    name, pretrained = classifier.source or (None, None)
    return {
        "model": name,
        "pretrained": pretrained,
        "clean": str(request.clean),
        "attacked": None if request.attacked is None else str(request.attacked),
        "attack": attack,
        "attack_eps": request.attack_eps,
        "labels": request.labels,
        "skipped": skipped,
        "seed": request.seed,
        "precision": classifier.precision,
        "versions": {"clipfast": __version__, "torch": torch.__version__},
    }
