"""Image towers as a forward pass and its gradient to the pixels: explicit, traced, or by autograd."""

from __future__ import annotations

import logging

import torch
from open_clip import CLIP, CoCa, CustomTextCLIP

from ..errors import InputError
from ..models.tower import ImageTower
from .autograd import AutogradEncoder
from .base import Encoder, Saved
from .compiled import CompiledEncoder
from .traced import TracedEncoder, TracingError
from .vit import VitEncoder, covers

__all__ = [
    "AutogradEncoder",
    "CompiledEncoder",
    "Encoder",
    "Saved",
    "TracedEncoder",
    "VitEncoder",
    "make_encoder",
]

_log = logging.getLogger(__name__)


def make_encoder(tower: ImageTower, *, dtype: torch.dtype = torch.float32, pack: bool = True) -> Encoder:
    """The fastest form of an image tower that is right.

    dtype: of the large products' operands. pack: re-lay the weights for CPU products. Both are for the
    explicit form alone. Raises InputError for a dtype other than float32 where that form does not apply.
    """
    visual = tower.model.visual
    if covers(visual) and _gives_what_visual_gives(tower):
        return VitEncoder(visual, dtype=dtype, pack=pack)
    name = type(getattr(visual, "trunk", visual)).__name__
    if dtype != torch.float32:
        raise InputError(
            f"expected precision fp32 for a {name} image tower: bf16 and fp16 need the explicit ViT"
        )
    try:
        return TracedEncoder(tower)
    except TracingError as error:
        _log.info("%s is not traced; each gradient costs a forward pass more: %s", name, error)
        return AutogradEncoder(tower)


def _gives_what_visual_gives(tower: ImageTower) -> bool:
    """Whether encode_image is the visual tower's pooled output, unchanged."""
    model, visual = tower.model, tower.model.visual
    if "encode_image" in vars(model):
        return False
    # CoCa takes the first of (pooled, tokens); the others take the output as it comes.
    return type(model) is CoCa if visual.output_tokens else type(model) in (CLIP, CustomTextCLIP)
