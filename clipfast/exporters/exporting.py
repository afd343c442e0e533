"""Exports a defended classifier: what it takes and gives is declared, then traced, written and checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..artifacts.fields import Precision
from ..artifacts.formats import FormatName, named_format
from ..artifacts.metadata import Metadata
from ..artifacts.ports import OutputName, PixelType, Port, Profile, usual_outputs
from ..artifacts.runtimes import RuntimeName
from ..classifier import DefendedClassifier
from ..errors import InputError
from ..models.fingerprint import fingerprint
from ..verification.outcome import Verification
from ..verification.verifying import Comparison
from .defence_graph import DefenceGraph
from .writing import EXAMPLE_BATCH, check_options, license_of, traceable, versions, write_verified

__all__ = ["Export", "export"]


@dataclass(frozen=True)
class Export:
    """What was exported: the file, what it says about itself, and how it compared with the reference."""

    path: Path
    metadata: Metadata
    verifications: dict[RuntimeName, Verification]  # by runtime; empty where it was not asked for


def export(
    classifier: DefendedClassifier,
    path: str | os.PathLike[str],
    *,
    format: FormatName = "onnx",
    profile: Profile = "serving",
    precision: Precision = "fp32",
    pixels: PixelType = "float32",
    batch: int | None = None,
    static: bool = False,
    outputs: Sequence[OutputName] | None = None,
    opset: int = 20,
    license: str | None = None,
    calibration: dict[str, float] | None = None,
    verify: bool = True,
    tolerance: float | None = None,
    progress: Callable[[str], object] | None = None,
) -> Export:
    """Writes the whole defended classifier as one file, and compares its answers with the reference's.

    path: ends as the format's files do: .onnx, .ts.pt or .pt2. format: "torchscript" is a legacy target that
    PyTorch has deprecated; "aotinductor" compiles for the classifier's device and this machine's CPU.
    profile: "serving" takes pixels alone, draws its noise and has the threshold baked in, so that a caller
    cannot switch the defence off; "lab" takes noise and threshold and gives delta too. pixels: the dtype of
    that input. batch: its size, or None for any. static: batch 1, noise as an input, every shape known and
    no row selected, for edge compilers; each image then costs what a countered one does. outputs: by name;
    None is logits, undefended_logits, drift, countered, and of the profile lab delta. "embedding" is what is
    classified, before L2 normalisation, for those who store it; without "undefended_logits" f(x) is made
    only where the defence needs it. precision: of the large products' operands; "fp16" needs a ViT, and
    "int8" is refused. opset: of ONNX.
    license: of the weights. calibration: figures of the calibration that set the threshold, by name, which
    the file then says of itself.
    verify, tolerance: run the file before it is moved to `path`, in each runtime of its format that is
    installed; see `clipfast.exporters.verify`. progress: called with a message at each step.

    Nothing is left at `path` when the export fails; a file that stood there is then untouched. Raises
    InputError for options that do not go together and for a tower that cannot be exported, and
    VerificationError for a file that disagrees with the reference.
    """
    path = Path(path)
    target = named_format(format)
    check_options(path, target, precision, opset)
    described = _describe(
        classifier, profile, precision, pixels, 1 if static else batch, static, outputs, license, calibration
    )
    drift_tower = classifier.drift_tower
    graph = DefenceGraph(
        traceable(classifier.image_tower, precision),
        classifier.config,
        classifier.class_weights,
        classifier.logit_scale,
        drift_encoder=None if drift_tower is None else traceable(drift_tower, precision),
        outputs=described.outputs,
        static=static,
        image_size=classifier.image_size,
    ).eval()
    verifications = write_verified(
        graph,
        _examples(described.ports[0], classifier),
        described.to_json(),
        path,
        target,
        ports=described.ports,
        opset=opset,
        verified=partial(Comparison(classifier).of, tolerance=tolerance) if verify else None,
        progress=progress,
    )
    return Export(path, described, verifications)


def _describe(
    classifier: DefendedClassifier,
    profile: Profile,
    precision: Precision,
    pixels: PixelType,
    batch: int | None,
    static: bool,
    outputs: Sequence[OutputName] | None,
    license: str | None,
    calibration: dict[str, float] | None,
) -> Metadata:
    if calibration is not None and not classifier.calibrated:
        raise InputError("expected a config calibrated for this model with the figures of a calibration")
    drift_tower = classifier.drift_tower
    name, pretrained = classifier.source or (None, None)
    described = Metadata(
        profile=profile,
        static=static,
        batch=batch,
        pixels=pixels,
        outputs=usual_outputs(profile) if outputs is None else tuple(outputs),
        width=classifier.class_weights.shape[0],
        model_name=name,
        pretrained=pretrained,
        weights_sha256=fingerprint(classifier.image_tower.model.visual),
        drift_weights_sha256=None if drift_tower is None else fingerprint(drift_tower.model.visual),
        classnames=classifier.classnames,
        templates=tuple(t if isinstance(t, str) else t("{}") for t in classifier.templates),
        config=classifier.config,
        calibrated=classifier.calibrated,
        calibration=calibration,
        preprocess=classifier.preprocess,
        precision=precision,
        versions=versions(),
        license=license_of(name) if license is None else license,
    )
    # Raises where the options do not go together.
    return replace(described, outputs=tuple(port.name for port in described.ports[1]))


def _examples(inputs: tuple[Port, ...], classifier: DefendedClassifier) -> tuple[Tensor, ...]:
    """Tensors for tracing, on the classifier's device: thresholds among them that counter every image."""
    device, eps = classifier.device, classifier.config.eps
    examples = []
    for port in inputs:
        shape = [EXAMPLE_BATCH if size is None else size for size in port.shape]
        if port.name == "tau_threshold":
            examples.append(torch.full(shape, torch.inf, device=device))
        elif port.dtype == "uint8":
            examples.append(torch.randint(256, shape, dtype=torch.uint8, device=device))
        else:
            examples.append(torch.rand(shape, device=device) * (eps if port.name == "noise" else 1.0))
    return tuple(examples)
