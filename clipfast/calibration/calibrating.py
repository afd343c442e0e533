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

# Files -> the readable ones and their pixels [N, 3, H, W], uint8, some at a time.
Batches = Callable[[list[Path]], Iterable[tuple[Sequence[Path], NDArray[Any]]]]


@dataclass(frozen=True, kw_only=True)
class CalibrationRequest:
    """What to calibrate on and how.

    clean: a folder of pictures. attacked: one of attacked pictures; or attack_eps, the l-inf budget, in
    [0, 1] pixel units, of PGD-10 on the undefended model. rate: the share of clean pictures that may be
    countered; or balanced, the best balanced accuracy. labels: whether folders are named as the classes.
    attacked_share: of the traffic that the expected cost is for. seed: of noise, attack and bootstraps.

    Raises InputError for options that do not go together.
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
        """The folders that are read: of clean pictures, and of attacked ones where they are given."""
        return [self.clean, *([] if self.attacked is None else [self.attacked])]


def calibrate_folders(
    classifier: DefendedClassifier,
    request: CalibrationRequest,
    batches: Batches,
    *,
    total: Callable[[int], object] | None = None,
) -> Calibration:
    """Measures the pictures and sets the threshold. total: called with the number of files.

    Raises InputError for a folder that is not there or holds no pictures, for class folders that are not
    named as the classes, for settings without a gate, and as `calibrate` does.
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
    """`calibrate` as a request has it, for what a classifier measured with a config. Raises as that does.

    skipped: the number of files that could not be read.
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
    """What a gate and its branches make of pictures, and of the same pictures attacked.

    batches, labels, attack_eps: as `pictures_of` takes them; without labels no answer is judged. A picture's
    noise depends on the seed and its place alone. Raises InputError for no pictures.
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
    """N pictures of a list, on the classifier's device, and the same attacked."""

    first: int  # their place in the list
    clean: Tensor  # [N, 3, H, W], uint8 or float in [0, 1]
    attacked: Tensor | None  # float32 [N, 3, H, W] in [0, 1], where an attack was asked for
    labels: Tensor | None  # int64 [N]


def pictures_of(
    classifier: DefendedClassifier,
    batches: Iterable[tuple[Sequence[Path], NDArray[Any]]],
    *,
    labels: Mapping[Path, int] | None = None,
    attack_eps: float | None = None,
    seed: int = 0,
) -> Iterator[Pictures]:
    """Pictures with what an attack makes of them.

    batches: files and their pixels [N, 3, H, W], uint8 or float in [0, 1]. labels: each file's class; without
    them the attack moves away from the label that undefended CLIP predicts. attack_eps: as in
    `CalibrationRequest`; None attacks nothing.
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
    """The class of each file below `root`: the folder right below it is named as the class, spaces or _.

    Raises InputError for a file in no folder, or in one of another name.
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
    """The pictures in a folder. Raises InputError where there is none of that name."""
    if not root.is_dir():
        raise InputError(f"expected a folder of pictures, got {root}")
    return list(image_files([root]))


def _quoted(classifier: DefendedClassifier, request: CalibrationRequest, skipped: int) -> dict[str, Any]:
    """What the figures are quoted with."""
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
