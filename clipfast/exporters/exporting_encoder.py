"""Exports a CLIP model's image tower alone: undefended, for those who search by embeddings."""

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
    """What was exported: the file, what it says about itself, and how it compared with the model."""

    path: Path
    metadata: EncoderMetadata
    verifications: dict[RuntimeName, Verification]  # by runtime; empty where it was not asked for


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
    """Writes an open_clip model's image tower as one file: pixels to embeddings, with nothing that defends.

    model: in eval mode. source: open_clip's name of the model and its weights, which the file then says of
    itself. The embeddings are those of `encode_image`, before L2 normalisation. format, precision, pixels,
    batch, opset, license, verify, progress: see `clipfast.exporters.export`.

    Nothing is left at `path` when the export fails; a file that stood there is then untouched. Raises
    InputError for options that do not go together and for a tower that cannot be exported, and
    VerificationError for a file that disagrees with the model.
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
