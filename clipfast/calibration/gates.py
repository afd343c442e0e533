"""Compares all gates on the same pictures: how well each tells attacked from clean ones, and its cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import pages
from ..classifier import DefendedClassifier
from ..config import GATES, CounterattackConfig
from ..errors import InputError
from ..inputs.draws import draw_noise, seeded
from ..inputs.tensors import as_unit
from ..reference_stages import gate_measure, into_bounds
from ..transforms import csr_radius
from .calibrating import Batches, CalibrationRequest, files_below, pictures_of, set_threshold
from .roc_chart import roc_chart
from .separation import Separation
from .threshold import Calibration, Measured

__all__ = ["calibrate_gates", "candidate_gates", "plot_gates", "recommended_gate"]


def candidate_gates(
    config: CounterattackConfig, image_size: tuple[int, int], blocks: int = 1
) -> dict[str, CounterattackConfig]:
    """Returns the settings of the gates that are compared, by names for readers.

    All else is as in the config, with one exception, for images that pass. After a gate other than
    drift's they are answered by what is known then, at no further cost. This is f(x), or after an
    agreement gate both embeddings if the config answers images that pass by several. After the drift gate
    they are answered as the config says, or by f(x) if that is by several.

    Args:
        config: The settings to vary. With the gate "agreement", its own transform is a candidate too.
        image_size: (height, width) of the pixels; the low-pass filter's radius depends on it.
        blocks: Of the tower that the gate measures with. Of several, tokens are compared after half and
            after three quarters of them.

    Returns:
        The drift gate, drift at noise of 8, 16 and 32 grey levels, agreement under several transforms, and
        agreement of tokens under the blur. None is marked as calibrated.
    """
    radius = f"{csr_radius(image_size):.4g}"
    transforms = ("blur", "gaussian 1.0", f"low_pass {radius}", "mirror", "crop 0.9 centre")
    if config.gate == "agreement":
        transforms = tuple(dict.fromkeys((*transforms, config.transform)))
    unset = dataclasses.replace(config, calibrated_for=None)
    both = config.passes_by_several
    drift = dataclasses.replace(unset, gate="drift", pass_through="clean" if both else config.pass_through)
    others = dataclasses.replace(drift, pass_through="clean")
    return {
        "drift": drift,
        **{
            f"drift at noise {levels}/255": dataclasses.replace(
                others, gate="high_noise_drift", gate_noise=levels / 255
            )
            for levels in (8, 16, 32)
        },
        **{
            f"agreement, {transform}": dataclasses.replace(
                others, gate="agreement", transform=transform, pass_through="both" if both else "clean"
            )
            for transform in transforms
        },
        **{
            f"agreement, blur, after block {depth}": dataclasses.replace(
                others, gate="agreement", transform="blur", gate_depth=depth
            )
            for depth in sorted({blocks // 2, 3 * blocks // 4} - {0, blocks})
        },
    }


def calibrate_gates(
    classifier: DefendedClassifier,
    request: CalibrationRequest,
    batches: Batches,
    *,
    total: Callable[[int], object] | None = None,
) -> dict[str, Calibration]:
    """Calibrates each of `candidate_gates` on the same pictures.

    f(x) is computed once for all gates, so that each gate costs one forward pass a picture.

    Args:
        classifier: The classifier to calibrate; its config is varied. It may have the gate "none".
        request: The pictures and how to set the thresholds.
        batches: Reads files.
        total: Called with the number of files.

    Returns:
        The calibration of each gate, by its name.

    Raises:
        InputError: If the request has no attacked pictures and no attack, or has labels or the best
            balanced accuracy, as no answer is computed; the config's norm is not "linf"; a folder is
            missing or holds no pictures; no picture can be read; or as for `calibrate`.
    """
    if request.attacked is None and request.attack_eps is None:
        raise InputError("to compare gates expected attacked pictures or an attack, got clean ones alone")
    if request.labels or request.balanced:
        raise InputError("to compare gates expected a rate and no labels: no answer is made of any gate")
    if classifier.config.norm != "linf":
        raise InputError(f"to compare gates expected a config of norm 'linf', got {classifier.config.norm!r}")
    files = [files_below(root) for root in request.folders]
    if total is not None:
        total(sum(map(len, files)))
    blocks = classifier.measuring_tower.blocks
    configs = candidate_gates(classifier.config, classifier.image_size, blocks)
    clean, attacked = _measured(classifier, configs, batches(files[0]), request)
    skipped = len(files[0]) - len(clean["drift"])
    if request.attacked is not None:
        given = dataclasses.replace(request, attack_eps=None)
        attacked, _ = _measured(classifier, configs, batches(files[1]), given)
        skipped += len(files[1]) - len(attacked["drift"])
    return {
        name: set_threshold(
            classifier, request, config, Measured(drift=clean[name]), Measured(drift=attacked[name]), skipped
        )
        for name, config in configs.items()
    }


def recommended_gate(found: dict[str, Calibration], config: CounterattackConfig) -> str | None:
    """Returns the name of the gate to use, or None if no gate tells attacked pictures from clean ones.

    It is the config's own gate if that one separates, else the one that separates best. The own gate
    comes first because how hard a gate is to evade was found by attacking it, and separation says nothing
    about that. Best means the highest lower end of an AUROC's interval. A gate separates if that is above
    0.5.

    Args:
        found: The calibrations by name, as `calibrate_gates` returns them.
        config: The settings whose gate is preferred.
    """
    separating = [name for name, one in found.items() if _of(one).kind == "separates"]
    own = [name for name in separating if _measures_alike(found[name].config, config)]
    return max(own or separating, key=lambda name: _of(found[name]).interval.low, default=None)


def plot_gates(found: dict[str, Calibration]) -> str:
    """Returns the text of an SVG file: the receiver operating characteristic of each gate.

    Args:
        found: The calibrations by name, as `calibrate_gates` returns them.
    """
    measured = {}
    for name, one in found.items():
        assert one.attacked is not None
        measured[f"{name} ({_of(one).auroc:.2f})"] = one.clean.drift, one.attacked.drift
    label = "each gate's receiver operating characteristic, with its area"
    return pages.alone(roc_chart(measured, label=label))


def _measures_alike(one: CounterattackConfig, other: CounterattackConfig) -> bool:
    facts = GATES[one.gate]
    return one.gate == other.gate and facts.measured_with(one) == facts.measured_with(other)


def _of(calibration: Calibration) -> Separation:
    assert calibration.separation is not None
    return calibration.separation


def _measured(
    classifier: DefendedClassifier,
    configs: dict[str, CounterattackConfig],
    batches: Iterable[tuple[Sequence[Path], NDArray[Any]]],
    request: CalibrationRequest,
) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
    """What each gate measures of all pictures, and of the same pictures attacked; empty if none are."""
    clean: dict[str, list[NDArray[np.float32]]] = {name: [] for name in configs}
    attacked: dict[str, list[NDArray[np.float32]]] = {name: [] for name in configs}
    for part in pictures_of(classifier, batches, attack_eps=request.attack_eps, seed=request.seed):
        for pixels, into in ((part.clean, clean), (part.attacked, attacked)):
            if pixels is not None:
                for name, drift in _drifts(classifier, configs, pixels, request.seed, part.first).items():
                    into[name].append(drift)
    if not clean["drift"]:
        raise InputError("expected at least one picture that can be read, got none")
    return tuple(  # pyright: ignore[reportReturnType]
        {name: np.concatenate(parts) if parts else np.empty(0, np.float32) for name, parts in side.items()}
        for side in (clean, attacked)
    )


@torch.no_grad()
def _drifts(
    classifier: DefendedClassifier,
    configs: dict[str, CounterattackConfig],
    pixels: Tensor,
    seed: int,
    first_image: int,
) -> dict[str, NDArray[np.float32]]:
    x = as_unit(pixels)
    noise = draw_noise(seeded(seed, first_image, len(x), x.device), x.shape, classifier.config)
    start = into_bounds(noise, x)
    tower = classifier.engine.embed if classifier.drift_tower is None else classifier.drift_tower
    clean = tower(x)

    def measure(config: CounterattackConfig) -> NDArray[np.float32]:
        tokens = partial(classifier.measuring_tower.gate_tokens, config=config)
        return gate_measure(tower, x, start, clean, config, tokens).cpu().numpy().astype(np.float32)

    return {name: measure(config) for name, config in configs.items()}
