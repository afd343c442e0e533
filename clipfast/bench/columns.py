"""What is compared: the reference's schedules, the engine, undefended CLIP: closures of no arguments."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from ..config import CounterattackConfig
from ..encoders import make_encoder
from ..engine import Engine
from ..fresh_noise import fresh_noise
from ..models.tower import ImageTower
from ..precision import dtype_of
from ..reference import counterattack, counterattack_early_return
from .scenario import Images

__all__ = ["FLOORS", "Towers", "check", "closures"]

Closure = Callable[[], object]

# Undefended CLIP, by precision: the fastest of these is the floor that a defence's cost is stated over.
FLOORS = {
    precision: tuple(f"undefended {form} {precision}" for form in ("eager", "compiled", "packed"))
    for precision in ("fp32", "bf16")
}


class Towers:
    """Every form of one tower that the columns run; made once a process, because compiling takes minutes."""

    def __init__(self, tower: ImageTower, *, compile: bool, precisions: tuple[str, ...]) -> None:
        self.eager = tower
        self.precisions = precisions
        self.compiles = compile
        self.compiled = torch.compile(tower, dynamic=False)
        self.packed = {name: make_encoder(tower, dtype=dtype_of(name)) for name in precisions}
        self.cast: dict[str, Callable[[Tensor], Tensor]] = {"fp32": tower}
        self.cast_compiled: dict[str, Callable[[Tensor], Tensor]] = {"fp32": self.compiled}
        for name in precisions:
            if name != "fp32":
                self.cast[name] = _Cast(tower, dtype_of(name))
                self.cast_compiled[name] = torch.compile(_Cast(tower, dtype_of(name)), dynamic=False)

    def engine(self, precision: str, config: CounterattackConfig, *, compile: bool = False) -> Engine:
        """An engine over the packed tower."""
        return Engine(
            self.packed[precision],
            config,
            compile=compile,
            image_size=self.eager.image_size,
            device=self.eager.mean.device,
        )


class _Cast(torch.nn.Module):
    """The tower with weights cast once, as an owner of eager PyTorch would run it in low precision."""

    def __init__(self, tower: ImageTower, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = copy.deepcopy(tower.model.visual).to(dtype)
        self.dtype = dtype
        self.mean, self.std = tower.mean, tower.std

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(((pixels - self.mean) / self.std).to(self.dtype)).float()


def closures(towers: Towers, images: Images) -> dict[str, Closure]:
    """Each column's work on a batch. All draw their noise themselves, by the same generator."""
    x, config = images.pixels, images.config
    columns: dict[str, Closure] = {}

    def add_reference(name: str, encode: Callable[[Tensor], Tensor], schedule: Callable[..., object]) -> None:
        columns[name] = lambda: schedule(encode, x, fresh_noise(x, config), config)

    add_reference("reference", towers.eager, counterattack)
    add_reference("reference early return", towers.eager, counterattack_early_return)
    if towers.compiles:
        add_reference("reference compiled", towers.compiled, counterattack)
    for precision in towers.precisions:
        if precision != "fp32":
            add_reference(f"reference {precision}", towers.cast[precision], counterattack)
        for compile in (False, True) if towers.compiles else (False,):
            engine = towers.engine(precision, config, compile=compile)
            engine.warmup([len(x)])
            name = f"engine {precision}" + (" compiled" if compile else "")
            columns[name] = lambda engine=engine: _counted(engine, images)
        eager, compiled, packed = FLOORS[precision]
        columns[eager] = _undefended(towers.cast[precision], x)
        if towers.compiles:
            columns[compiled] = _undefended(towers.cast_compiled[precision], x)
        floor = towers.engine(precision, config)
        columns[packed] = _undefended(floor.embed, x)
    return columns


def _counted(engine: Engine, images: Images) -> None:
    result = engine.run(images.pixels, fresh_noise(images.pixels, images.config), with_delta=False)
    if not torch.equal(result.countered, images.countered):
        raise RuntimeError(
            f"expected {int(images.countered.sum())} countered images, got {int(result.countered.sum())}"
        )


def _undefended(encode: Callable[[Tensor], Tensor], x: Tensor) -> Closure:
    @torch.no_grad()
    def run() -> Tensor:
        return encode(x)

    return run


def check(towers: Towers, images: Images, precision: str) -> None:
    """Compares an engine with the reference on the same noise; no figure is worth more than that.

    Raises RuntimeError where it disagrees by more than the tests allow.
    """
    x, config = images.pixels, images.config
    noise = fresh_noise(x, config)
    expected = counterattack_early_return(towers.eager, x, noise, config)
    result = towers.engine(precision, config).run(x, noise)
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
