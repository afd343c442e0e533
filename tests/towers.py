"""Tiny random towers of every family of open_clip's image towers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import open_clip
import timm
import torch
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from clipfast.models.tower import ImageTower

TEXT = {"context_length": 10, "vocab_size": 12, "width": 32, "heads": 2, "layers": 1}
VIT = {"layers": 3, "width": 64, "head_width": 32, "patch_size": 8}
RESNET = {"layers": (1, 1, 1, 1), "width": 8, "head_width": 32}
POOLER = {"attentional_pool": True, "attn_pooler_queries": 7, "attn_pooler_heads": 2}
CUSTOM = {"scale_heads": True, "scale_attn_inner": True, "scale_attn": True, "scale_fc": True}
TIMM = {"timm_pool": "", "timm_proj": "linear"}


# open_clip's VisionTransformer family, each with one thing that the others lack.
VITS = {
    "class token": {},
    "QuickGELU": {"quick_gelu": True},
    "tanh GELU": {"act_kwargs": {"approximate": "tanh"}},
    "mean": {"pool_type": "avg"},
    "mean, then norm": {"pool_type": "avg", "final_ln_after_pool": True},
    "class token, then norm": {"final_ln_after_pool": True},
    "no ln_pre": {"no_ln_pre": True},
    "layer scale": {"ls_init_value": 0.3},
    "norm eps": {"norm_kwargs": {"eps": 1e-2}},
    "patch dropout": {"patch_dropout": 0.5},
    "one block": {"layers": 1},
    "one block, mean": {"layers": 1, "pool_type": "avg"},
    "head width 20": {"width": 60, "head_width": 20},
    "small patches": {"patch_size": 4},
    "145 tokens": {"patch_size": 4, "size": 48},
    "145 tokens, mean": {"patch_size": 4, "size": 48, "pool_type": "avg"},
    "sine positions": {"pos_embed_type": "sin_cos_2d"},
    "rectangular": {"size": (24, 40)},
}


def build(
    kind: type[nn.Module] = open_clip.CLIP, size: int | tuple[int, int] = 32, *, seed: int = 0, **vision
) -> nn.Module:
    """A tiny random model of one of open_clip's classes, none of whose parameters is zero or one."""
    options = {"quick_gelu": vision.pop("quick_gelu", False)}
    text = dict(TEXT)
    if kind is open_clip.CoCa:
        vision["output_tokens"] = True
        text |= {"output_tokens": True, "embed_cls": True}
        options["multimodal_cfg"] = {"context_length": 10, "width": 32, "heads": 2, "layers": 1}
    torch.manual_seed(seed)
    model = kind(
        embed_dim=24,
        vision_cfg=open_clip.CLIPVisionCfg(image_size=size, **vision),
        text_cfg=open_clip.CLIPTextCfg(**text),
        **options,
    )
    return finished(model, size)


def build_timm(trunk: Callable[[], nn.Module], size: int = 32, *, projects: bool = True) -> nn.Module:
    """The same around a timm model that takes no tiny form by open_clip's configuration.

    projects: to 24 numbers; else the trunk's own are the embedding.
    """
    model = build(open_clip.CustomTextCLIP, size, timm_model_name="test_resnet", **TIMM)
    torch.manual_seed(0)
    model.visual.trunk = trunk()
    model.visual.head = nn.Linear(model.visual.trunk.num_features, 24) if projects else nn.Sequential()
    return finished(model, size)


def finished(model: nn.Module, size: int | tuple[int, int]) -> nn.Module:
    with torch.no_grad():
        for parameter in model.visual.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for name, buffer in model.visual.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(0.05 * torch.randn_like(buffer))
    open_clip.model.set_model_preprocess_cfg(
        model,
        {"size": size, "mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD},
    )
    return model.eval()


def vit(name: str = "test_vit", **options) -> nn.Module:
    return timm.create_model(name, img_size=32, patch_size=8, depth=2, num_classes=0, **options)


def convnext() -> nn.Module:
    """Of convolutions in two layouts."""
    return timm.create_model("test_convnext", num_classes=0, depths=(1, 1, 1, 1), dims=(8, 8, 16, 16))


def eva() -> nn.Module:
    return Eva(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0, qkv_fused=False,
        swiglu_mlp=True, scale_mlp=True, scale_attn_inner=True, use_rot_pos_emb=True,
        use_abs_pos_emb=True, ref_feat_shape=(4, 4), init_values=0.1,
    )  # fmt: skip


def swin() -> nn.Module:
    return SwinTransformer(
        img_size=32, patch_size=2, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4, num_classes=0
    )


def build_custom(**vision) -> nn.Module:
    return build(open_clip.CustomTextCLIP, **vision)


def build_coca(**vision) -> nn.Module:
    return build(open_clip.CoCa, **vision)


def build_vit(variant: str = "class token", *, seed: int = 0, gain: float = 1.0) -> nn.Module:
    """gain: multiplies the patch projection once it no longer sees a patch's mean, and with it the drift."""
    model = build(seed=seed, **VIT | VITS[variant])
    if gain != 1.0:
        with torch.no_grad():
            weight = model.visual.conv1.weight
            weight.sub_(weight.mean(dim=(2, 3), keepdim=True)).mul_(gain)
    return model


def make_tower(variant: str = "class token", *, seed: int = 0, gain: float = 1.0) -> ImageTower:
    """A frozen tower of the VisionTransformer family."""
    return ImageTower(build_vit(variant, seed=seed, gain=gain)).requires_grad_(False)


EXPLICIT: dict[str, Callable[[], nn.Module]] = {
    **{f"vit {variant}": partial(build_vit, variant) for variant in VITS},
    "vit custom text": lambda: build_custom(**VIT),
    "coca class token": lambda: build_coca(**VIT),
}
TRACED: dict[str, Callable[[], nn.Module]] = {
    "coca attentional pool": lambda: build_coca(**VIT, **POOLER),
    "coca attentional avg pool": lambda: build_coca(**VIT, **POOLER, pool_type="avg", ls_init_value=0.1),
    "vit ragged": lambda: build(**VIT, size=36),
    "vit qk_norm": lambda: build(**VIT, **CUSTOM, qk_norm=True),
    "vit custom": lambda: build(**VIT, **CUSTOM, quick_gelu=True, ls_init_value=0.1),
    "resnet": lambda: build(**RESNET, size=64),
    "timm vit": lambda: build_timm(vit),
    "timm siglip": lambda: build_timm(lambda: vit(class_token=False, global_pool="map")),
    "timm gap": lambda: build_timm(lambda: vit(class_token=False, global_pool="avg", init_values=0.1)),
    "timm vit proj none": lambda: build_timm(lambda: vit(global_pool="token"), projects=False),
    "timm relpos": lambda: build_timm(lambda: vit("test_vit_relpos")),
    "timm eva": lambda: build_timm(eva),
    "timm swin": lambda: build_timm(swin),
    "timm convnext": lambda: build_timm(convnext, size=64),
    "timm resnet": lambda: build_custom(size=64, timm_model_name="test_resnet", **TIMM),
    # ViTamin's activations write in place, to a view of a layer norm's result.
    "timm layer norm conv": lambda: build_custom(size=64, timm_model_name="test_efficientnet_ln", **TIMM),
    "timm mobile": lambda: build_custom(size=64, timm_model_name="test_byobnet", **TIMM),
    "timm coatnet": lambda: build_timm(
        lambda: timm.create_model("test_coatnet", img_size=64, num_classes=0), size=64
    ),
}


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
