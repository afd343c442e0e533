"""What is compared: the reference's schedules, the engine, undefended CLIP: closures of no arguments."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..config import CounterattackConfig
from ..defence.engine import Engine
from ..defence.precision import dtype_of
from ..encoders import make_encoder
from ..encoders.compiled import CompiledEncoder
from ..inputs.draws import fresh
from ..inputs.noise import Noise
from ..models.tower import ImageTower
from ..reference import counterattack, counterattack_early_return
from .scenario import GatedImages, published_noise

__all__ = ["Towers", "check", "closure", "names"]

Closure = Callable[[], object]
Encode = Callable[[Tensor], Tensor]


class Towers:
    """The forms of one tower that the columns run, each made once: compiling takes minutes."""

    def __init__(self, tower: ImageTower, *, compile: bool, precisions: tuple[str, ...]) -> None:
        self.eager = tower
        self.compiles = compile
        self.precisions = precisions
        self._made: dict[tuple[str, str], Any] = {}

    def cast(self, precision: str) -> Encode:
        """The eager tower with its weights cast once, as an owner of PyTorch would run it."""
        if precision == "fp32":
            return self.eager
        return self._once("cast", precision, lambda: _Cast(self.eager, dtype_of(precision)))

    def compiled(self, precision: str) -> Encode:
        """That under torch.compile."""
        return self._once("compiled", precision, lambda: torch.compile(self.cast(precision), dynamic=False))

    def graphs(self, precision: str) -> Encode:
        """That under torch.compile's own CUDA graphs."""
        cast = self.cast(precision)
        return self._once(
            "graphs", precision, lambda: torch.compile(cast, dynamic=False, mode="reduce-overhead")
        )

    def autocast(self, pixels: Tensor) -> Tensor:
        """The eager tower under float16 autocast."""
        with torch.autocast(pixels.device.type, torch.float16):
            return self.eager(pixels).float()

    def engine(self, precision: str, config: CounterattackConfig, *, compile: bool = False) -> Engine:
        """An engine over the tower's encoder, eager or compiled."""
        encoder = self._once("packed", precision, lambda: make_encoder(self.eager, dtype=dtype_of(precision)))
        if compile:
            encoder = self._once("packed compiled", precision, lambda: CompiledEncoder(encoder))
        size, device = self.eager.image_size, self.eager.mean.device
        return Engine(encoder, config, image_size=size, device=device)

    def _once(self, form: str, precision: str, make: Callable[[], Any]) -> Any:
        if (form, precision) not in self._made:
            self._made[form, precision] = make()
        return self._made[form, precision]


class _Cast(torch.nn.Module):
    """The tower with weights cast once, as an owner of eager PyTorch would run it in low precision."""

    def __init__(self, tower: ImageTower, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = copy.deepcopy(tower.model.visual).to(dtype)
        self.dtype = dtype
        self.mean, self.std = tower.mean, tower.std

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(((pixels - self.mean) / self.std).to(self.dtype)).float()


def names(towers: Towers) -> list[str]:
    """Every column."""
    columns = ["reference", "reference early return"]
    columns += ["reference compiled"] if towers.compiles else []
    for precision in towers.precisions:
        columns += [f"reference {precision}"] if precision != "fp32" else []
        columns += [f"engine {precision}"]
        columns += [f"engine {precision} compiled"] if towers.compiles else []
        columns += [f"undefended eager {precision}", f"undefended packed {precision}"]
        if towers.compiles:
            columns += [f"undefended compiled {precision}", f"undefended packed compiled {precision}"]
    if towers.compiles and "fp16" in towers.precisions:  # how the published code runs, and its best effort
        columns += ["reference autocast fp16", "reference graphs fp16"]
    return columns


def closure(name: str, towers: Towers, images: GatedImages) -> Closure:
    """A column's work on a batch. Each defence draws its noise itself: torch's generator, or the engine's."""
    x, config = images.pixels, images.config
    kind, *words = name.split()
    precision = next((word for word in words if word in towers.precisions), "fp32")
    if kind == "undefended":
        if "packed" in words:
            return _undefended(towers.engine(precision, config, compile="compiled" in words).embed, x)
        return _undefended(towers.compiled(precision) if "compiled" in words else towers.cast(precision), x)
    if kind == "engine":
        engine = towers.engine(precision, config, compile="compiled" in words)
        engine.warmup([len(x)])
        return lambda: _counted(engine, images)
    if "autocast" in words:
        encode = towers.autocast
    elif "graphs" in words:
        encode = towers.graphs(precision)
    else:
        encode = towers.compiled(precision) if "compiled" in words else towers.cast(precision)
    schedule = counterattack_early_return if "early" in words else counterattack
    return lambda: schedule(encode, x, published_noise(x, config), config)


def _counted(engine: Engine, images: GatedImages) -> None:
    result = engine.run(images.pixels, fresh(len(images.pixels), images.pixels.device), with_delta=False)
    if not torch.equal(result.countered, images.countered):
        raise RuntimeError(
            f"expected {int(images.countered.sum())} countered images, got {int(result.countered.sum())}"
        )


def _undefended(encode: Encode, x: Tensor) -> Closure:
    @torch.no_grad()
    def run() -> Tensor:
        return encode(x)

    return run


def check(towers: Towers, images: GatedImages, precision: str) -> None:
    """Compares an engine with the reference on the same noise; no figure is worth more than that.

    Raises RuntimeError where it disagrees by more than the tests allow.
    """
    x, config = images.pixels, images.config
    noise = published_noise(x, config)
    expected = counterattack_early_return(towers.eager, x, noise, config)
    result = towers.engine(precision, config).run(x, Noise(noise))
    assert result.delta is not None
    with torch.no_grad():
        moved, wanted = (
            (towers.eager(x + delta) - expected.clean_embedding).norm(dim=1)
            for delta in (result.delta, expected.delta)
        )
    clean = (result.clean_embedding - expected.clean_embedding).norm() / expected.clean_embedding.norm()
    flips = ((result.delta - expected.delta).abs() > 1e-5).float().mean()
    # On this tower the reference itself is 1e-5 away from float64.
    limits = (3e-5, 1e-3) if precision == "fp32" else (2e-2, 1.0)
    if not torch.equal(result.countered, expected.countered):
        raise RuntimeError("expected the reference's gate, got another")
    if not (clean < limits[0] and flips < limits[1] and (moved / wanted).min() > 0.95):
        raise RuntimeError(
            f"engine {precision} is not the reference: clean embedding {clean:.1e}, "
            f"flipped {flips:.1e}, displacement {(moved / wanted).min():.3f}"
        )
