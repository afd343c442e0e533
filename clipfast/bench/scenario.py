"""What is measured: a model with random weights, a batch, and how many of its images are countered."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import open_clip
import torch
from torch import Tensor

from ..config import CounterattackConfig
from ..fresh_noise import fresh_noise
from ..models.tower import ImageTower
from ..reference import drift_of, into_bounds

__all__ = ["Images", "Scenario", "make_images", "make_tower"]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One row of the table. countered: images of the batch that the gate holds back."""

    model: str
    batch: int
    countered: int
    rounds: int

    @property
    def name(self) -> str:
        """For tables and test ids."""
        return f"{self.model} batch {self.batch} countered {self.countered}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Images:
    """Pixels float32 [N, 3, H, W], and settings under which just `countered` of them are countered."""

    pixels: Tensor
    config: CounterattackConfig
    countered: Tensor  # bool [N]


def make_tower(model: str, device: torch.device) -> ImageTower:
    """The model's image tower with random weights: they prove speed, never accuracy."""
    torch.manual_seed(0)
    clip = open_clip.create_model(model, pretrained=None, device=device)
    return ImageTower(clip.eval().requires_grad_(False)).requires_grad_(False)


@torch.no_grad()
def make_images(tower: ImageTower, batch: int, countered: int) -> Images:
    """Images whose drift lies on either side of a threshold, whatever noise is drawn.

    Black and white pixels leave half of the noise no room within [0, 1], so such images drift less than
    grey ones. Raises RuntimeError where a model does not tell them apart.
    """
    device = tower.mean.device
    generator = torch.Generator().manual_seed(batch)
    pixels = 0.25 + 0.5 * torch.rand(batch, 3, *tower.image_size, generator=generator)
    mask = torch.arange(batch) * countered // batch != (torch.arange(batch) + 1) * countered // batch
    pixels[mask] = pixels[mask].round()
    pixels, mask = pixels.to(device), mask.to(device)
    if countered in (0, batch):
        return Images(
            pixels=pixels,
            config=CounterattackConfig(tau_threshold=1e9 if countered else 0.0),
            countered=mask,
        )
    published = CounterattackConfig()
    drifts = []
    for _ in range(3):
        noise = into_bounds(fresh_noise(pixels, published), pixels)
        parts = [(p + d, p) for p, d in zip(pixels.split(8), noise.split(8), strict=True)]
        drifts.append(torch.cat([drift_of(tower(noisy), tower(clean)) for noisy, clean in parts]))
    drift = torch.stack(drifts)
    low, high = drift[:, mask].max().item(), drift[:, ~mask].min().item()
    if low >= high:
        raise RuntimeError(f"expected a gap between drifts, got {low:.5f} below and {high:.5f} above")
    config = CounterattackConfig(tau_threshold=(low * high) ** 0.5)
    return Images(pixels=pixels, config=config, countered=mask)
