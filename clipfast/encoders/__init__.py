"""Image towers as a forward pass and its gradient to the pixels: explicit, traced, or by autograd."""

from __future__ import annotations

import logging

import torch
from open_clip import CLIP, CoCa, CustomTextCLIP

from ..errors import InputError
from ..models.tower import ImageTower
from .autograd import AutogradEncoder
from .base import Encoder, ExplicitEncoder, Saved
from .compiled import CompiledEncoder
from .traced import TracedEncoder, TracingError
from .vit import VitEncoder

__all__ = [
    "AutogradEncoder",
    "CompiledEncoder",
    "Encoder",
    "Saved",
    "TracedEncoder",
    "VitEncoder",
    "check_dtype",
    "check_explicit",
    "make_encoder",
]

# Each for the towers that it covers; the others are traced.
_EXPLICIT: tuple[type[ExplicitEncoder], ...] = (VitEncoder,)

_log = logging.getLogger(__name__)


def make_encoder(tower: ImageTower, *, dtype: torch.dtype = torch.float32, pack: bool = True) -> Encoder:
    """The fastest form of an image tower that is right.

    dtype: of the large products' operands. pack: re-lay the weights for CPU products. Both are for the
    explicit form alone. Raises InputError as `check_dtype` does.
    """
    check_dtype(tower, dtype)
    if explicit := _explicit(tower):
        return explicit(tower.model.visual, dtype=dtype, pack=pack)
    try:
        return TracedEncoder(tower)
    except TracingError as error:
        _log.info("%s is not traced; each gradient costs a forward pass more: %s", _name(tower), error)
        return AutogradEncoder(tower)


def check_dtype(tower: ImageTower, dtype: torch.dtype) -> None:
    """Raises InputError for a dtype other than float32 where the explicit form does not apply."""
    if dtype != torch.float32:
        check_explicit(tower, "precision fp32", "bf16 and fp16 need")


def check_explicit(tower: ImageTower, expected: str, reason: str) -> None:
    """Raises InputError where the explicit form does not apply: what was expected then, and who needs it."""
    if _explicit(tower) is None:
        raise InputError(f"expected {expected} for a {_name(tower)} image tower: {reason} the explicit ViT")


def _name(tower: ImageTower) -> str:
    visual = tower.model.visual
    return type(getattr(visual, "trunk", visual)).__name__


def _explicit(tower: ImageTower) -> type[ExplicitEncoder] | None:
    if not _gives_what_visual_gives(tower):
        return None
    return next((encoder for encoder in _EXPLICIT if encoder.covers(tower.model.visual)), None)


def _gives_what_visual_gives(tower: ImageTower) -> bool:
    """Whether encode_image is the visual tower's pooled output, unchanged."""
    model, visual = tower.model, tower.model.visual
    if "encode_image" in vars(model):
        return False
    # CoCa takes the first of (pooled, tokens); the others take the output as it comes.
    gives_tokens = getattr(visual, "output_tokens", False)
    return type(model) is CoCa if gives_tokens else type(model) in (CLIP, CustomTextCLIP)
