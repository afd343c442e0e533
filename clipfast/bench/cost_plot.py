"""A benchmark's result as one plot: a defence's cost against the number of images that it counters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, names_extra
from .run import summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_costs"]

# Columns: label, colour, precision.
_LINES = {
    "reference": ("reference, fp32", "0.6", "fp32"),
    "reference early return": ("reference with early return, fp32", "0.25", "fp32"),
    "engine fp32": ("engine, fp32", "tab:blue", "fp32"),
    "engine bf16": ("engine, bf16", "tab:orange", "bf16"),
}


def draw_costs(result: dict[str, Any], path: Path, model: str = "ViT-B-32") -> None:
    """Plots cost over undefended CLIP against the countered share of a batch, for each batch size.

    Args:
        result: What `run_benchmark` returned.
        path: The picture to write.
        model: The model whose rows are drawn.

    Raises:
        InputError: If the result has no batch of that model with two shares or more.
        ModuleNotFoundError: If matplotlib is not installed; names the extra that has it.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise names_extra("the plot", error) from error
    rows = [row for row in result["rows"] if row["scenario"]["model"] == model]
    regime = rows[0]["regime"] if rows else ""
    rows = [row for row in rows if row["regime"] == regime]
    batches = sorted({row["scenario"]["batch"] for row in rows})
    shares = {
        b: len({r["scenario"]["countered"] for r in rows if r["scenario"]["batch"] == b}) for b in batches
    }
    batches = [batch for batch in batches if shares[batch] > 1]
    if not batches:
        raise InputError(f"expected rows of {model} with two countered shares or more, got none")
    figure = Figure(figsize=(4.2 * len(batches), 4.2), layout="constrained")
    axes: list[Axes] = list(figure.subplots(1, len(batches), sharey=True, squeeze=False)[0])
    for axis, batch in zip(axes, batches, strict=True):
        _draw_batch(axis, [row for row in rows if row["scenario"]["batch"] == batch])
        axis.set_title(f"{model}, batch {batch}")
        axis.set_xlabel("countered share of the batch, %")
    axes[0].set_ylabel("time over undefended CLIP, same precision")
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=144)


def _draw_batch(axis: Axes, rows: list[dict[str, Any]]) -> None:
    rows = sorted(rows, key=lambda row: row["scenario"]["countered"])
    shares = [100 * row["scenario"]["countered"] / row["scenario"]["batch"] for row in rows]
    medians = [summary(row)["milliseconds"] for row in rows]
    for name, (label, colour, precision) in _LINES.items():
        floors = [
            min(t for n, t in times.items() if n.startswith("undefended") and n.endswith(precision))
            for times in medians
        ]
        costs = [times[name] / floor for times, floor in zip(medians, floors, strict=True)]
        axis.plot(shares, costs, marker="o", label=label, color=colour)
    axis.axhline(1, color="0.85", zorder=0)
    axis.set_yscale("log", base=2)
    axis.set_yticks([1, 2, 4, 8, 16], ["1x", "2x", "4x", "8x", "16x"])
    axis.grid(axis="y", color="0.93")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
