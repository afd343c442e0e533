"""Tiny image towers of open_clip's VisionTransformer family, each with one thing that others lack."""

from __future__ import annotations

import open_clip
import torch
from open_clip.transformer import QuickGELU
from torch import nn

from clipfast.models.tower import ImageTower

VARIANTS = {
    "class token": {},
    "QuickGELU": {"quick_gelu": True},
    "tanh GELU": {"act_kwargs": {"approximate": "tanh"}},
    "mean": {"pool_type": "avg"},
    "mean, then norm": {"pool_type": "avg", "final_ln_after_pool": True},
    "class token, then norm": {"final_ln_after_pool": True},
    "no ln_pre": {"no_ln_pre": True},
    "layer scale": {"ls_init_value": 0.3},
    "patch dropout": {"patch_dropout": 0.5},
    "one block": {"layers": 1},
    "one block, mean": {"layers": 1, "pool_type": "avg"},
    "head width 20": {"width": 60, "head_width": 20},
    "small patches": {"patch_size": 4},
    "145 tokens": {"patch_size": 4, "image_size": 48},
    "145 tokens, mean": {"patch_size": 4, "image_size": 48, "pool_type": "avg"},
    "sine positions": {"pos_embed_type": "sin_cos_2d"},
}


def make_tower(variant: str = "class token", *, seed: int = 0, gain: float = 1.0) -> ImageTower:
    """gain: multiplies the patch projection once it no longer sees a patch's mean, and with it the drift."""
    options = dict(VARIANTS[variant])
    quick_gelu = options.pop("quick_gelu", False)
    size = options.get("image_size", 32)
    torch.manual_seed(seed)
    vision = {"layers": 3, "width": 64, "head_width": 32, "patch_size": 8, "image_size": 32, **options}
    model = open_clip.CLIP(
        embed_dim=24,
        vision_cfg=open_clip.CLIPVisionCfg(**vision),
        text_cfg=open_clip.CLIPTextCfg(context_length=4, vocab_size=8, width=16, heads=1, layers=1),
        quick_gelu=quick_gelu,
    )
    with torch.no_grad():
        for name, parameter in model.visual.named_parameters():
            if parameter.ndim == 1 and name != "class_embedding":  # biases and norms start out trivial
                parameter.add_(0.1 * torch.randn_like(parameter))
        if gain != 1.0:
            weight = model.visual.conv1.weight
            weight.sub_(weight.mean(dim=(2, 3), keepdim=True)).mul_(gain)
    open_clip.model.set_model_preprocess_cfg(
        model, {"size": size, "mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    )
    assert isinstance(model.visual.transformer.resblocks[0].mlp.gelu, QuickGELU if quick_gelu else nn.GELU)
    return ImageTower(model.eval()).requires_grad_(False)


def doubled(tower: ImageTower) -> ImageTower:
    """The same tower in float64."""
    tower = tower.double()
    for name in ("mean", "std"):
        exact = torch.tensor(getattr(tower.model.visual, f"image_{name}"), dtype=torch.float64)
        setattr(tower, name, exact[:, None, None])
    return tower


def smooth(n: int, size: tuple[int, int], *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Images [n, 3, *size] in [0, 1] without fine detail: a tower of large gain drifts on them."""
    coarse = torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return torch.nn.functional.interpolate(coarse, size, mode="bilinear", align_corners=False)
