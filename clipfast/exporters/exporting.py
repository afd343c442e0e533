"""Exports a defended classifier: describes its inputs and outputs, then traces, writes and checks it."""

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
    """The result of an export.

    Attributes:
        path: The exported file.
        metadata: What the file says about itself.
        verifications: How the file compared with the reference, by runtime. Empty if it was not compared.
    """

    path: Path
    metadata: Metadata
    verifications: dict[RuntimeName, Verification]


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
    """Writes a defended classifier as one file, and compares the file's answers with the reference's.

    Nothing is written to `path` if the export fails, and an older file there stays as it was.

    Args:
        classifier: The classifier to export.
        path: The file to write. Its name must end in the format's suffix, .onnx, .ts.pt or .pt2.
        format: "onnx"; "torchscript", a legacy format that PyTorch has deprecated; or "aotinductor",
            which compiles for the classifier's device and this machine's CPU.
        profile: "serving" takes pixels alone, draws its own noise and contains the threshold, so that a
            caller cannot switch the defence off. "lab" takes noise and threshold too, and also gives
            delta.
        precision: The number format of the operands of large matrix products. "fp16" needs a ViT, and
            "int8" is refused.
        pixels: The dtype of the pixels that the file takes.
        batch: The batch size, or None for any. Not used with `static`.
        static: Whether to export for edge compilers, with batch 1, noise as an input, every shape known
            and no rows selected. Each image then costs as much as a countered one.
        outputs: The names of the outputs. None stands for logits, undefended_logits, drift and countered,
            and for the profile "lab" also delta. "embedding" is the embedding that is classified, before
            L2 normalisation, for those who store it. Without "undefended_logits", f(x) is computed only
            if the defence needs it.
        opset: The opset of ONNX, from 20 to 23.
        license: The licence of the weights. None states that of a bundled model, or refers to the model's
            weights.
        calibration: The figures of the calibration that set the threshold, by name. They become part of
            the file's metadata.
        verify: Whether to run the file before it is moved to `path`, in each installed runtime of its
            format, and to compare its answers; see `clipfast.exporters.verify`.
        tolerance: See `clipfast.exporters.verify`.
        progress: Called with a message at each step.

    Returns:
        The file, its metadata and its comparisons.

    Raises:
        InputError: If an option is not valid, options contradict each other, or the image tower cannot be
            exported; no file can be written at `path`; or `calibration` is given for a classifier that is
            not calibrated.
        VerificationError: If the file disagrees with the reference.
        ArtifactError: If the file cannot be loaded or run for the comparison.
        ModuleNotFoundError: If a package that the format needs is not installed. The message names the
            extra.
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
    # Computing the ports raises InputError if the options contradict each other.
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
