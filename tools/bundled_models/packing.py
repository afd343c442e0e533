"""A finished model as the folder that open_clip and clipfast read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from clipfast.files import write_text, written_aside
from clipfast.models.tokenizer import WordTokenizer

__all__ = ["new_model", "pack", "pack_twin"]


def new_model(model_cfg: dict[str, Any], preprocess_cfg: dict[str, Any], *, seed: int) -> nn.Module:
    """An open_clip model with its random start, and its preprocessing attached."""
    import open_clip

    torch.manual_seed(seed)
    model = open_clip.CLIP(**model_cfg)
    open_clip.model.set_model_preprocess_cfg(model, preprocess_cfg)
    return model


def pack(
    model: nn.Module,
    out: Path,
    *,
    model_cfg: dict[str, Any],
    classnames: Sequence[str],
    tokenizer: WordTokenizer,
) -> None:
    """Writes the configuration, the labels and float16 weights."""
    config = {"model_cfg": model_cfg, "preprocess_cfg": model.visual.preprocess_cfg}
    labels = {
        "classnames": classnames,
        "words": tokenizer.words,
        "context_length": tokenizer.context_length,
    }
    for name, content in (("open_clip_config.json", config), ("labels.json", labels)):
        write_text(out / name, json.dumps(content, indent=2) + "\n")
    weights = {name: value.contiguous() for name, value in _halves(model).items()}
    with written_aside(out / "open_clip_model.safetensors") as file:
        file.write(save(weights))


def pack_twin(visual: nn.Module, file: Path) -> None:
    """Writes a fine-tuned image tower in float16, in the form in which TeCoA's are published."""
    checkpoint = {"epoch": 1, "vision_encoder_state_dict": _halves(visual)}
    with written_aside(file) as whole:
        torch.save(checkpoint, whole)


def _halves(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().half() for name, value in module.state_dict().items()}
