"""Exports a CLIP model's image tower alone: undefended, for search by embeddings."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ..artifacts.encoder_metadata import EncoderMetadata
from ..artifacts.fields import Precision
from ..artifacts.formats import FormatName, named_format
from ..artifacts.ports import PixelType
from ..artifacts.runtimes import RuntimeName
from ..models.fingerprint import fingerprint
from ..models.loading import source_of
from ..models.tower import ImageTower
from ..preprocess import Preprocess
from ..verification.embeddings import compare_embeddings
from ..verification.outcome import Verification
from .encoder_graph import EncoderGraph
from .writing import EXAMPLE_BATCH, check_options, license_of, traceable, versions, write_verified

__all__ = ["EncoderExport", "export_encoder"]


@dataclass(frozen=True)
class EncoderExport:
    """The result of an export.

    Attributes:
        path: The exported file.
        metadata: What the file says about itself.
        verifications: How the file compared with the model, by runtime. Empty if it was not compared.
    """

    path: Path
    metadata: EncoderMetadata
    verifications: dict[RuntimeName, Verification]


def export_encoder(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    source: tuple[str, str | None] | None = None,
    format: FormatName = "onnx",
    precision: Precision = "fp32",
    pixels: PixelType = "float32",
    batch: int | None = None,
    opset: int = 20,
    license: str | None = None,
    verify: bool = True,
    progress: Callable[[str], object] | None = None,
) -> EncoderExport:
    """Writes an open_clip model's image tower as one file, without any defence.

    The file maps pixels [N, 3, H, W] to the embeddings of `encode_image`, float32 [N, D] before L2
    normalisation. Nothing is written to `path` if the export fails, and an older file there stays as it
    was.

    Args:
        model: An open_clip model in eval mode.
        path: As for `clipfast.exporters.export`.
        source: open_clip's names of the model and of its weights, which become part of the file's
            metadata.
        format: As for `clipfast.exporters.export`.
        precision: As for `clipfast.exporters.export`.
        pixels: As for `clipfast.exporters.export`.
        batch: As for `clipfast.exporters.export`.
        opset: As for `clipfast.exporters.export`.
        license: As for `clipfast.exporters.export`.
        verify: Whether to run the file before it is moved to `path`, in each installed runtime of its
            format, and to compare its embeddings with the model's.
        progress: Called with a message at each step.

    Returns:
        The file, its metadata and its comparisons.

    Raises:
        InputError: If an option is not valid, the image tower cannot be exported, or no file can be
            written at `path`.
        VerificationError: If the file disagrees with the model.
        ArtifactError: If the file cannot be loaded or run for the comparison.
        ModuleNotFoundError: If a package that the format needs is not installed. The message names the
            extra.
    """
    path = Path(path)
    target = named_format(format)
    check_options(path, target, precision, opset)
    tower = ImageTower(model)
    device = next(tower.parameters()).device
    size = EXAMPLE_BATCH if batch is None else batch
    examples = torch.rand(size, 3, *tower.image_size, device=device)
    if pixels == "uint8":
        examples = (examples * 255).to(torch.uint8)
    graph = EncoderGraph(traceable(tower, precision)).eval()
    name, pretrained = (None, None) if source is None else source_of(*source)
    with torch.no_grad():
        width = graph(examples[:1])[0].shape[1]
    described = EncoderMetadata(
        batch=batch,
        pixels=pixels,
        width=width,
        model_name=name,
        pretrained=pretrained,
        weights_sha256=fingerprint(tower.model.visual),
        preprocess=Preprocess.from_open_clip(model),
        precision=precision,
        versions=versions(),
        license=license_of(name) if license is None else license,
    )
    verifications = write_verified(
        graph,
        (examples,),
        described.to_json(),
        path,
        target,
        ports=described.ports,
        opset=opset,
        verified=partial(compare_embeddings, tower=tower) if verify else None,
        progress=progress,
    )
    return EncoderExport(path, described, verifications)
