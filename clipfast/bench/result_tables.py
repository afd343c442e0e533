"""A benchmark's result as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from ..measurement.interleave import Ratio
from .environment import REGIMES
from .plan import BARS, EXPORTED_BARS, Bar
from .run import exported_summary, summary
from .scenario import Scenario

__all__ = ["result_tables"]

# Headings, and the measured forms that stand under each; the fastest is shown.
_COLUMNS = {
    "reference": ("reference",),
    "early return": ("reference early return",),
    "compiled": ("reference compiled",),
    "in bf16": ("reference bf16",),
    "in fp16": ("reference fp16", "reference autocast fp16", "reference graphs fp16"),
    **{
        f"{kind} {precision}": tuple(form.format(precision) for form in forms)
        for kind, forms in {
            "engine": ("engine {}", "engine {} compiled"),
            "undefended": (
                "undefended eager {}",
                "undefended compiled {}",
                "undefended packed {}",
                "undefended packed compiled {}",
            ),
        }.items()
        for precision in ("fp32", "bf16", "fp16")
    },
}


def result_tables(result: dict[str, Any]) -> Iterator[Table]:
    """Yields tables of times, ratios, the bars of ViT-B/32, and peak memory.

    If exported files were measured, it yields one table of their ratios and bars.

    Args:
        result: What `run_benchmark` returned.
    """
    exported = [row for row in result["rows"] if "onnx" in row["seconds"]]
    if exported:
        yield _exports(exported)
        return
    groups = dict.fromkeys((row["scenario"]["model"], row["regime"]) for row in result["rows"])
    for model, regime in groups:
        rows = [row for row in result["rows"] if row["regime"] == regime]
        rows = [row for row in rows if row["scenario"]["model"] == model]
        yield _times(rows, f"{model}, {regime}: milliseconds, medians; the fastest form of each")
        yield _ratios(rows, f"{model}, {regime}: ratios, medians of rounds (quartiles)")
    if result["device"] == "cpu":
        yield _bars(result["rows"])
    if result["peaks"]:
        yield _peaks(result["peaks"])


def _times(rows: list[dict[str, Any]], title: str) -> Table:
    measured = [summary(row)["milliseconds"] for row in rows]
    known = set().union(*measured)
    columns = {heading: [form for form in forms if form in known] for heading, forms in _COLUMNS.items()}
    columns = {heading: forms for heading, forms in columns.items() if forms}
    table = Table("batch", "countered", *columns, title=title)
    for row, times in zip(rows, measured, strict=True):
        fastest = [
            min((times[form] for form in forms if form in times), default=None) for forms in columns.values()
        ]
        scenario = Scenario(**row["scenario"])
        table.add_row(
            str(scenario.batch), str(scenario.countered), *("" if t is None else f"{t:.1f}" for t in fastest)
        )
    return table


def _ratios(rows: list[dict[str, Any]], title: str) -> Table:
    headings = ("over reference", "same precision", "over early return", "time over floor", "floor")
    table = Table("batch", "countered", "engine", *headings, title=title)
    for row in rows:
        scenario = Scenario(**row["scenario"])
        for name, ratios in summary(row)["engines"].items():
            table.add_row(
                str(scenario.batch),
                str(scenario.countered),
                name.removeprefix("engine "),
                _show(ratios["over_reference"]),
                _show(ratios.get("over_reference_same_precision")),
                _show(ratios["over_early_return"]),
                _show(ratios["over_floor"]),
                ratios["floor"].removeprefix("undefended ").rsplit(" ", 1)[0],
            )
    return table


def _show(ratio: Ratio | None) -> str:
    return "" if ratio is None else f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"


def _bars(rows: list[dict[str, Any]]) -> Table:
    table = Table("ViT-B/32", "figure", "bar", "measured", "", title="bars, in the worse regime")
    for bar in BARS:
        name = f"batch {bar.batch}, {bar.countered} countered"
        for figure, limit, values, wants_more in _figures(bar, rows):
            if values:
                worst = min(values) if wants_more else max(values)
                met = worst >= limit if wants_more else worst <= limit
                sign = ">=" if wants_more else "<="
                table.add_row(name, figure, f"{sign} {limit:g}", f"{worst:.2f}", "met" if met else "missed")
    return table


def _figures(bar: Bar, rows: list[dict[str, Any]]) -> Iterator[tuple[str, float, list[float], bool]]:
    """Yields (figure, bar, the best engine's value in each regime, whether more is better)."""
    wanted = ("ViT-B-32", bar.batch, bar.countered)
    idle, busy = [], []
    for row in rows:
        scenario = Scenario(**row["scenario"])
        if (scenario.model, scenario.batch, scenario.countered) == wanted:
            (busy if REGIMES[row["regime"]].busy else idle).append(summary(row)["engines"])

    def best(precision: str, ratio: str, found: list[Any] = idle, *, wants_more: bool = True) -> list[float]:
        pick = max if wants_more else min
        return [
            pick(r[ratio].median for name, r in engines.items() if name.split()[1] == precision)
            for engines in found
        ]

    yield "fp32 over reference", bar.fp32_over_reference, best("fp32", "over_reference"), True
    yield "bf16 over reference", bar.bf16_over_reference, best("bf16", "over_reference"), True
    yield "fp32 over early return", bar.fp32_over_early_return, best("fp32", "over_early_return"), True
    for precision in ("fp32", "bf16"):
        cost = best(precision, "over_floor", wants_more=False)
        yield f"{precision} time over floor", bar.over_floor, cost, False
    if bar.busy_over_reference is not None:
        found = best("fp32", "over_reference", busy)
        yield "one core busy: fp32 over reference", bar.busy_over_reference, found, True
    if bar.over_eager is not None:
        for name, limit, found in zip(("", "one core busy: "), bar.over_eager, (idle, busy), strict=True):
            cost = best("fp32", "over_eager_undefended", found, wants_more=False)
            yield f"{name}fp32 time over undefended eager", limit, cost, False


def _exports(rows: list[dict[str, Any]]) -> Table:
    """Returns a table of each figure of exported files in each regime, and its bar."""
    headings = ("regime", "batch", "countered", "figure", "measured (quartiles)", "bar", "")
    table = Table(*headings, title="exported files: ratios, medians of rounds")
    for row in rows:
        scenario = Scenario(**row["scenario"])
        for figure, measured in exported_summary(row).items():
            bar = EXPORTED_BARS.get((scenario.countered > 0, figure))
            at_most = "time" in figure
            met = bar is not None and (measured.median <= bar if at_most else measured.median >= bar)
            table.add_row(
                row["regime"],
                str(scenario.batch),
                str(scenario.countered),
                figure,
                _show(measured),
                "" if bar is None else f"{'<=' if at_most else '>='} {bar:g}",
                "" if bar is None else "met" if met else "missed",
            )
    return table


def _peaks(peaks: list[dict[str, Any]]) -> Table:
    table = Table("scenario", "column", "peak memory", title="peak memory of a process that runs one column")
    for peak in peaks:
        table.add_row(Scenario(**peak["scenario"]).name, peak["column"], f"{peak['bytes'] / 2**20:.0f} MiB")
    return table
