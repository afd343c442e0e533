"""Exports a defended classifier: what it takes and gives is declared, then traced, written and checked."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata as distributions
from pathlib import Path
from typing import Protocol, get_args

import torch
from torch import Tensor

from .. import __version__
from ..artifacts.formats import Format, FormatName, named_format
from ..artifacts.metadata import Metadata, Precision
from ..artifacts.ports import OutputName, PixelType, Port, Profile, usual_outputs
from ..artifacts.runtimes import RuntimeName
from ..classifier import DefendedClassifier
from ..encoders import Encoder, make_encoder
from ..errors import InputError, VerificationError
from ..files import move_into_place
from ..models.bundled import BUNDLED
from ..models.fingerprint import fingerprint
from ..models.tower import ImageTower
from ..verification.outcome import Verification
from ..verification.verifying import verify
from .defence_graph import DefenceGraph

__all__ = ["OPSETS", "Export", "Writer", "export"]

# Where the batch is dynamic the example's must equal no other dimension, or tracing may take one for it.
_EXAMPLE_BATCH = 5

OPSETS = range(20, 24)  # Gelu is an operator of ONNX since 20

_DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16}

_log = logging.getLogger(__name__)


class Writer(Protocol):
    """Writes a graph in a format of `clipfast.artifacts.formats`."""

    def __call__(
        self,
        graph: DefenceGraph,
        examples: tuple[Tensor, ...],
        metadata: str,
        path: Path,
        *,
        inputs: tuple[Port, ...],
        outputs: tuple[Port, ...],
        opset: int,
    ) -> None:
        """Writes at `path`. examples: the graph's inputs, of a batch that equals no other dimension where it
        is dynamic. metadata: the text to keep under `clipfast.artifacts.metadata.KEY`. opset: of ONNX."""
        ...


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
    _check(path, target, precision, opset)
    described = _describe(
        classifier, profile, precision, pixels, 1 if static else batch, static, outputs, license, calibration
    )
    inputs, given = described.ports
    graph = DefenceGraph(
        _encoder(classifier.image_tower, precision),
        classifier.config,
        classifier.class_weights,
        classifier.logit_scale,
        drift_encoder=None if classifier.drift_tower is None else _encoder(classifier.drift_tower, precision),
        outputs=described.outputs,
        static=static,
        image_size=classifier.image_size,
    ).eval()
    examples = _examples(inputs, classifier)
    write: Writer = target.writes()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        written = Path(folder) / path.name
        if progress is not None:
            progress(f"tracing the classifier and writing it as {format}")
        write(graph, examples, described.to_json(), written, inputs=inputs, outputs=given, opset=opset)
        verifications: dict[RuntimeName, Verification] = {
            runtime: _verified(written, path, runtime, classifier, tolerance, progress)
            for runtime in (target.installed_runtimes() if verify else ())
        }
        # The file itself last: whoever finds it finds all that it needs.
        parts = sorted(Path(folder).iterdir(), key=lambda file: file == written)
        for file in parts:
            move_into_place(file, path.parent / file.name)
        data = path.with_name(f"{path.name}.data")
        if data.name not in {file.name for file in parts}:
            data.unlink(missing_ok=True)  # an older export's
    return Export(path, described, verifications)


def _verified(
    written: Path,
    path: Path,
    runtime: RuntimeName,
    classifier: DefendedClassifier,
    tolerance: float | None,
    progress: Callable[[str], object] | None,
) -> Verification:
    def tell(message: str) -> None:
        if progress is not None:
            progress(f"{runtime}: {message}")

    verification = verify(
        written, classifier, runtime=runtime, tolerance=tolerance, trust=True, progress=tell
    )
    if not verification.agrees:
        raise VerificationError(f"{path} in {runtime} disagrees with the reference: {verification.failures}")
    return verification


def _check(path: Path, format: Format, precision: str, opset: int) -> None:
    if precision == "int8":
        raise InputError(
            "precision 'int8' is refused, as it has not been shown to keep the defence: "
            "expected 'fp32' or 'fp16'"
        )
    if precision not in get_args(Precision):
        raise InputError(f"precision must be one of {get_args(Precision)}, got {precision!r}")
    if opset not in OPSETS:
        raise InputError(f"opset must be one of {list(OPSETS)}, got {opset!r}")
    if not path.name.endswith(format.suffix):
        raise InputError(f"expected a path that ends in {format.suffix} for {format.name}, got {path}")
    if not path.parent.is_dir():
        raise InputError(f"no such folder: {path.parent}")


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
    if license is None:
        license = "Apache-2.0" if name in BUNDLED else "that of the model's weights"
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
        versions={
            "clipfast": __version__,
            "torch": torch.__version__,
            "open_clip_torch": distributions.version("open_clip_torch"),
        },
        license=license,
    )
    # Raises where the options do not go together.
    return replace(described, outputs=tuple(port.name for port in described.ports[1]))


def _encoder(tower: ImageTower, precision: Precision) -> Encoder:
    encoder = make_encoder(tower, dtype=_DTYPES[precision], pack=False)
    if encoder.form == "autograd":
        kind = type(tower.model.visual).__name__
        raise InputError(f"expected an image tower that can be traced, got {kind}: the log says why not")
    return encoder


def _examples(inputs: tuple[Port, ...], classifier: DefendedClassifier) -> tuple[Tensor, ...]:
    """Tensors for tracing, on the classifier's device: thresholds among them that counter every image."""
    device, eps = classifier.device, classifier.config.eps
    examples = []
    for port in inputs:
        shape = [_EXAMPLE_BATCH if size is None else size for size in port.shape]
        if port.name == "tau_threshold":
            examples.append(torch.full(shape, torch.inf, device=device))
        elif port.dtype == "uint8":
            examples.append(torch.randint(256, shape, dtype=torch.uint8, device=device))
        else:
            examples.append(torch.rand(shape, device=device) * (eps if port.name == "noise" else 1.0))
    return tuple(examples)
