"""So that the server takes picture files: a decoder beside a model, and the chain of both."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from model_config import chain_config, decoder_config, from_text, to_text

from clipfast.artifacts.metadata import Metadata
from clipfast.errors import ArtifactError
from clipfast.files import read_text, write_text
from clipfast.preprocess import Preprocess

__all__ = ["check_decoder", "write_chain"]

_DECODER = Path(__file__).parent / "decode"
_CONFIG = "config.pbtxt"


def write_chain(model: Path, metadata: Metadata, aside: Path) -> None:
    """Adds NAME_decode and NAME_files beside a model's folder, where they are missing.

    aside: a folder on the same file system, outside the repository.
    """
    name, preprocess = model.name, _written(metadata.preprocess)
    for config in (
        decoder_config(f"{name}_decode", metadata, preprocess),
        chain_config(f"{name}_files", f"{name}_decode", name, metadata),
    ):
        place = model.with_name(config.name)
        if place.exists():
            continue
        staged = aside / config.name
        (staged / "1").mkdir(parents=True)
        if config.backend == "python":
            for file in _DECODER.glob("*.py"):
                shutil.copyfile(file, staged / "1" / file.name)
        write_text(staged / _CONFIG, to_text(config))
        staged.rename(place)


def check_decoder(model: Path, metadata: Metadata) -> None:
    """Raises ArtifactError where the decoder beside a model prepares pictures otherwise than its metadata."""
    file = model.with_name(f"{model.name}_decode") / _CONFIG
    if not file.exists():
        return
    config: Any = from_text(read_text(file), str(file))
    said = config.parameters["preprocess"].string_value
    wanted = _written(metadata.preprocess)
    if said != wanted:
        raise ArtifactError(f"{file} prepares pictures by {said}, the artifact takes them by {wanted}")


def _written(preprocess: Preprocess) -> str:
    return json.dumps(dataclasses.asdict(preprocess))
