"""What is measured: a model with random weights, a batch, and how many of its images are countered."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, cast

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import CounterattackConfig
from ..models.tower import ImageTower
from ..reference_stages import drift_of, into_bounds

__all__ = ["GatedImages", "Scenario", "make_images", "make_tower", "published_noise"]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One row of the table. countered: images of the batch that the gate holds back."""

    model: str
    batch: int
    countered: int
    rounds: int

    @property
    def name(self) -> str:
        """For tables and progress."""
        return f"{self.model} batch {self.batch}, {self.countered} countered"

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class GatedImages:
    """Pixels float32 [N, 3, H, W], and settings under which just `countered` of them are countered."""

    pixels: Tensor
    config: CounterattackConfig
    countered: Tensor  # bool [N]


@torch.no_grad()
def make_tower(model: str, device: torch.device) -> ImageTower:
    """The model's image tower with random weights: they prove speed, never accuracy.

    A patch projection that sees no patch's mean, and strongly what is left, gives the drift of a trained
    tower: about 0.1 on smooth images, ten times less on noise. Low precision would drown another drift.
    """
    torch.manual_seed(0)
    clip = open_clip.create_model(model, pretrained=None, device=device)
    weight = cast(Tensor, cast(Any, clip).visual.conv1.weight)
    weight.sub_(weight.mean(dim=(2, 3), keepdim=True)).mul_(8)
    return ImageTower(clip.eval().requires_grad_(False)).requires_grad_(False)


def published_noise(pixels: Tensor, config: CounterattackConfig) -> Tensor:
    """U(-eps, eps) per pixel as the published code draws it, by torch's generator: shaped as the pixels."""
    return torch.empty_like(pixels).uniform_(-config.eps, config.eps)


@torch.no_grad()
def make_images(tower: ImageTower, batch: int, countered: int) -> GatedImages:
    """Smooth images, which drift, and noise, which hardly does: the gate tells them apart at any draw.

    Raises RuntimeError where it does not.
    """
    device, size = tower.mean.device, tower.image_size
    generator = torch.Generator().manual_seed(batch)
    pixels = F.interpolate(torch.rand(batch, 3, 2, 2, generator=generator), size, mode="bilinear")
    order = torch.arange(batch)
    mask = order * countered // batch != (order + 1) * countered // batch  # spread over the batch
    pixels[mask] = torch.rand(countered, 3, *size, generator=generator)
    pixels, mask = pixels.to(device), mask.to(device)
    if countered in (0, batch):
        config = CounterattackConfig(tau_threshold=1e9 if countered else 0.0)
        return GatedImages(pixels=pixels, config=config, countered=mask)
    published = CounterattackConfig()
    drifts = []
    for x in pixels.split(8):
        d = into_bounds(published_noise(x, published), x)
        drifts.append(drift_of(tower(x + d), tower(x)))
    drift = torch.cat(drifts)
    low, high = drift[mask].max().item(), drift[~mask].min().item()
    if high < 2 * low:
        raise RuntimeError(f"expected a gap between drifts, got {low:.4f} below and {high:.4f} above")
    config = CounterattackConfig(tau_threshold=(low * high) ** 0.5)
    return GatedImages(pixels=pixels, config=config, countered=mask)
