"""The columns that are compared, as functions without arguments: reference, engine, undefended CLIP."""

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

# A column's work on a batch.
Closure = Callable[[], object]
# pixels float32 [N, 3, H, W] in [0, 1] -> embeddings float32 [N, D].
Encode = Callable[[Tensor], Tensor]


class Towers:
    """The forms of one tower that the columns run, each made once, as compiling takes minutes.

    Args:
        tower: The eager tower in float32.
        compile: Whether there are columns under torch.compile.
        precisions: The precisions of the columns, of "fp32", "bf16" and "fp16".

    Attributes:
        eager: The eager tower.
        compiles: Whether there are columns under torch.compile.
        precisions: The precisions of the columns.
    """

    def __init__(self, tower: ImageTower, *, compile: bool, precisions: tuple[str, ...]) -> None:
        self.eager = tower
        self.compiles = compile
        self.precisions = precisions
        self._made: dict[tuple[str, str], Any] = {}

    def cast(self, precision: str) -> Encode:
        """Returns the eager tower with its weights cast once, as a user of PyTorch would run it."""
        if precision == "fp32":
            return self.eager
        return self._once("cast", precision, lambda: _Cast(self.eager, dtype_of(precision)))

    def compiled(self, precision: str) -> Encode:
        """Returns the tower of `cast` under torch.compile."""
        return self._once("compiled", precision, lambda: torch.compile(self.cast(precision), dynamic=False))

    def graphs(self, precision: str) -> Encode:
        """Returns the tower of `cast` under torch.compile with its own CUDA graphs."""
        cast = self.cast(precision)
        return self._once(
            "graphs", precision, lambda: torch.compile(cast, dynamic=False, mode="reduce-overhead")
        )

    def autocast(self, pixels: Tensor) -> Tensor:
        """Runs the eager tower under float16 autocast.

        Args:
            pixels: float32 [N, 3, H, W] in [0, 1].

        Returns:
            Embeddings float32 [N, D].
        """
        with torch.autocast(pixels.device.type, torch.float16):
            return self.eager(pixels).float()

    def engine(self, precision: str, config: CounterattackConfig, *, compile: bool = False) -> Engine:
        """Returns a new engine over the tower's encoder.

        Args:
            precision: The precision of the encoder.
            config: The settings of the counterattack.
            compile: Whether the encoder runs under torch.compile.
        """
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
    """The tower with its weights cast once, as a user of eager PyTorch would run it in low precision."""

    def __init__(self, tower: ImageTower, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = copy.deepcopy(tower.model.visual).to(dtype)
        self.dtype = dtype
        self.mean, self.std = tower.mean, tower.std

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(((pixels - self.mean) / self.std).to(self.dtype)).float()


def names(towers: Towers) -> list[str]:
    """Returns the names of all columns."""
    columns = ["reference", "reference early return"]
    columns += ["reference compiled"] if towers.compiles else []
    for precision in towers.precisions:
        columns += [f"reference {precision}"] if precision != "fp32" else []
        columns += [f"engine {precision}"]
        columns += [f"engine {precision} compiled"] if towers.compiles else []
        columns += [f"undefended eager {precision}", f"undefended packed {precision}"]
        if towers.compiles:
            columns += [f"undefended compiled {precision}", f"undefended packed compiled {precision}"]
    # How the published code runs, and the fastest form that PyTorch makes of it.
    if towers.compiles and "fp16" in towers.precisions:
        columns += ["reference autocast fp16", "reference graphs fp16"]
    return columns


def closure(name: str, towers: Towers, images: GatedImages) -> Closure:
    """Returns a column's work on a batch.

    Each defence draws its noise itself, from torch's generator or the engine's own.

    Args:
        name: One of `names`.
        towers: The forms of the tower.
        images: The batch, and settings that counter a known part of it.

    Returns:
        The work. An engine's raises RuntimeError if other images are countered than expected.
    """
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
    """Compares an engine with the reference on the same noise; figures of one that differs mean nothing.

    Args:
        towers: The forms of the tower.
        images: The batch.
        precision: The engine's precision.

    Raises:
        RuntimeError: If it disagrees by more than the tests allow.
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
