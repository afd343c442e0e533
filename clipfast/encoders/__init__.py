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
from .product_trials import Tune, check_tune
from .traced import TracedEncoder, TracingError
from .vit import VitEncoder

__all__ = [
    "AutogradEncoder",
    "CompiledEncoder",
    "Encoder",
    "Saved",
    "TracedEncoder",
    "Tune",
    "VitEncoder",
    "check_dtype",
    "check_explicit",
    "check_tune",
    "make_encoder",
]

# Each is for the towers that it covers. All other towers are traced.
_EXPLICIT: tuple[type[ExplicitEncoder], ...] = (VitEncoder,)

_log = logging.getLogger(__name__)


def make_encoder(
    tower: ImageTower, *, dtype: torch.dtype = torch.float32, pack: bool = True, tune: Tune = True
) -> Encoder:
    """Makes the fastest form of an image tower that gives right results.

    That is the explicit form of a tower that one covers, else the traced form, else the one by autograd.

    Args:
        tower: The image tower.
        dtype: Of the large products' operands. Other than float32 for the explicit form alone.
        pack: Whether the explicit form re-lays the weights for CPU products.
        tune: How the explicit form's parts are chosen on a CPU, see `VitEncoder`.

    Raises:
        InputError: If dtype is not float32 and no explicit form covers the tower, and if `tune` is not
            known.
    """
    check_dtype(tower, dtype)
    if explicit := _explicit(tower):
        return explicit(tower.model.visual, dtype=dtype, pack=pack, tune=tune)
    try:
        return TracedEncoder(tower)
    except TracingError as error:
        _log.info("%s is not traced; each gradient costs a forward pass more: %s", _name(tower), error)
        return AutogradEncoder(tower)


def check_dtype(tower: ImageTower, dtype: torch.dtype) -> None:
    """Checks that an encoder of a tower can run in a dtype: all can in float32, explicit forms in others.

    Args:
        tower: The image tower.
        dtype: Of the large products' operands.

    Raises:
        InputError: If dtype is not float32 and no explicit form covers the tower.
    """
    if dtype != torch.float32:
        check_explicit(tower, "precision fp32", "bf16 and fp16 need")


def check_explicit(tower: ImageTower, expected: str, reason: str) -> None:
    """Checks that the explicit form covers a tower.

    Args:
        tower: The image tower.
        expected: What was expected of other towers, for the message.
        reason: What needs the explicit form, for the message.

    Raises:
        InputError: If it does not.
    """
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
