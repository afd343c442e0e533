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
    """One row of the table.

    Attributes:
        model: open_clip's name of the model.
        batch: The number of images.
        countered: How many of them the gate counters.
        rounds: How often each column is timed.
    """

    model: str
    batch: int
    countered: int
    rounds: int

    @property
    def name(self) -> str:
        """The scenario in words, for tables and progress."""
        return f"{self.model} batch {self.batch}, {self.countered} countered"

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON holds them."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class GatedImages:
    """A batch, and settings under which a known part of it is countered.

    Attributes:
        pixels: float32 [N, 3, H, W] in [0, 1].
        config: The settings.
        countered: bool [N], the images that are countered.
    """

    pixels: Tensor
    config: CounterattackConfig
    countered: Tensor


@torch.no_grad()
def make_tower(model: str, device: torch.device) -> ImageTower:
    """Builds a model's image tower with random weights, which prove speed and never accuracy.

    The patch projection ignores each patch's mean and amplifies what is left. That gives the drift of a
    trained tower: about 0.1 on smooth images, ten times less on noise. Any other drift would be lost in
    low precision.

    Args:
        model: open_clip's name of the model.
        device: Where the tower runs.
    """
    torch.manual_seed(0)
    clip = open_clip.create_model(model, pretrained=None, device=device)
    weight = cast(Tensor, cast(Any, clip).visual.conv1.weight)
    weight.sub_(weight.mean(dim=(2, 3), keepdim=True)).mul_(8)
    return ImageTower(clip.eval().requires_grad_(False)).requires_grad_(False)


def published_noise(pixels: Tensor, config: CounterattackConfig) -> Tensor:
    """Returns U(-eps, eps) per pixel as the published code draws it, by torch's generator.

    Args:
        pixels: float32 [N, 3, H, W].
        config: The settings, whose eps is in [0, 1] pixel units.

    Returns:
        float32 [N, 3, H, W], on the device of `pixels`.
    """
    return torch.empty_like(pixels).uniform_(-config.eps, config.eps)


@torch.no_grad()
def make_images(tower: ImageTower, batch: int, countered: int) -> GatedImages:
    """Makes a batch of which the gate counters a given number, at any draw of noise.

    It is of smooth images, which drift, and of noise, which hardly does. The noise images are the
    countered ones.

    Args:
        tower: The tower that measures drift.
        batch: The number of images.
        countered: How many of them are to be countered.

    Raises:
        RuntimeError: If the drifts of the two kinds are too close.
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
