"""The scenarios of a full or a quick benchmark, and the figures that they must reach."""

from __future__ import annotations

from dataclasses import dataclass

from .scenario import Scenario

__all__ = ["BARS", "EXPORTED_BARS", "Bar", "Job", "jobs"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """Scenarios of one model that share a process, under one regime.

    Attributes:
        regime: A name of `clipfast.bench.environment.REGIMES`.
        scenarios: The scenarios, in order.
        compile: Whether there are columns under torch.compile.
        exports: Whether the columns are exported files.
        peaks: Columns whose peak memory is measured too, at the last scenario.
    """

    regime: str
    scenarios: tuple[Scenario, ...]
    compile: bool = False
    exports: bool = False
    peaks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Bar:
    """What ViT-B/32 must reach on two CPU threads, in the worse of the regimes of an idle machine.

    Attributes:
        batch: The batch size that it holds for.
        countered: How many images of the batch are countered.
        fp32_over_reference: How many times faster than the reference the float32 engine is at least.
        bf16_over_reference: How many times faster than the reference the bfloat16 engine is at least.
        fp32_over_early_return: How many times faster than the reference with early return the float32
            engine is at least.
        over_floor: The time over undefended CLIP's, in the same precision and its fastest form, at most.
        busy_over_reference: As `fp32_over_reference`, while one core is busy with other work.
        over_eager: The float32 engine's time over eager undefended CLIP's at most, on an idle machine and
            while one core is busy.
    """

    batch: int
    countered: int
    fp32_over_reference: float
    bf16_over_reference: float
    fp32_over_early_return: float
    over_floor: float
    busy_over_reference: float | None = None
    over_eager: tuple[float, float] | None = None


BARS = (
    Bar(
        batch=1, countered=0, fp32_over_reference=7, bf16_over_reference=11, fp32_over_early_return=2.5,
        over_floor=2.1, busy_over_reference=5, over_eager=(0.85, 1.0),
    ),
    Bar(
        batch=8, countered=0, fp32_over_reference=4.5, bf16_over_reference=8.5, fp32_over_early_return=1.5,
        over_floor=2.15, busy_over_reference=4,
    ),
    Bar(
        batch=32, countered=3, fp32_over_reference=3.8, bf16_over_reference=6.5, fp32_over_early_return=1.4,
        over_floor=2.7,
    ),
    Bar(
        batch=8, countered=8, fp32_over_reference=1.6, bf16_over_reference=3, fp32_over_early_return=1.6,
        over_floor=7,
    ),
)  # fmt: skip

# What exported ViT-B/32 must reach on two CPU threads: (any countered, figure) -> bar. A figure that is a
# time may be the bar at most; any other must be the bar at least.
EXPORTED_BARS = {
    (False, "onnx over reference"): 4.0,
    (True, "onnx over reference"): 1.7,
    (False, "aotinductor over reference"): 6.0,
    (True, "aotinductor over reference"): 2.0,
    (False, "onnx time over undefended onnx"): 2.1,
    (False, "openvino over onnx"): 1.0,
    (True, "openvino over onnx"): 1.0,
    (False, "openvino time over undefended eager, batch 1"): 0.9,
}

_PEAKS = ("reference", "reference early return", "engine fp32", "engine bf16")


def jobs(device: str, *, quick: bool, exports: bool = False) -> list[Job]:
    """Returns the processes of a benchmark, in order.

    Args:
        device: "cpu", or a GPU.
        quick: Whether a few scenarios are enough.
        exports: Whether exported files are measured, on a CPU, in place of the engine.
    """

    def scenarios(model: str, *rows: tuple[int, int, int]) -> tuple[Scenario, ...]:
        return tuple(
            Scenario(model=model, batch=batch, countered=countered, rounds=rounds)
            for batch, countered, rounds in rows
        )

    if exports:
        rows = scenarios("ViT-B-32", (1, 0, 15), (1, 1, 9), (8, 0, 7), (8, 8, 5))
        return [Job(regime=name, scenarios=rows, exports=True) for name in ("default", "large thresholds")]
    if quick:
        rows = scenarios("ViT-B-32", (1, 0, 9), (8, 0, 3), (8, 8, 3))
        return [Job(regime="large thresholds", scenarios=rows)]
    if device != "cpu":
        small = scenarios(
            "ViT-B-32",
            (1, 0, 99),
            (1, 1, 51),
            (8, 0, 51),
            (32, 3, 31),
            (256, 0, 15),
            (256, 128, 15),
            (256, 256, 15),
        )
        large = scenarios("ViT-L-14", (1, 0, 31), (8, 0, 15), (8, 8, 15))
        return [Job(regime="default", scenarios=rows, compile=True) for rows in (small, large)]
    common = ((1, 0, 15), (1, 1, 7), (8, 0, 7), (8, 8, 5))
    both = scenarios("ViT-B-32", *common)
    tenth = scenarios("ViT-B-32", (32, 3, 3))
    return [
        Job(regime="large thresholds", scenarios=both, compile=True),
        Job(regime="default", scenarios=both, compile=True),
        Job(regime="one core busy", scenarios=scenarios("ViT-B-32", (1, 0, 15), (8, 0, 7))),
        Job(regime="large thresholds", scenarios=tenth),
        Job(regime="default", scenarios=tenth, peaks=_PEAKS),
        Job(
            regime="large thresholds",
            scenarios=scenarios("ViT-B-32", (8, 4, 5), (32, 0, 3), (32, 16, 3), (32, 32, 3)),
        ),
        Job(regime="default", scenarios=scenarios("ViT-L-14", (1, 0, 3))),
        Job(regime="default", scenarios=scenarios("ViT-L-14", (8, 0, 2), (8, 8, 2))),
        Job(regime="default", scenarios=scenarios("ViT-L-14-336", (8, 8, 0)), peaks=_PEAKS),
    ]
