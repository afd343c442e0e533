"""Charts as SVG text, in the colours of charts.css, light or dark as the reader's screen is."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .filling import styles

__all__ = ["Axis", "alone", "histogram", "lines", "scatter"]

Points = Sequence[tuple[float, float]]

_LEFT, _RIGHT, _TOP = 58, 22, 12
_ROW = 18  # a line of text
_COLOURS = 10
_NEAREST_ONE = 1 - 1e-5  # cosines nearer to 1 differ from it by rounding alone


@dataclass(frozen=True)
class Axis:
    """A scale from data to shares of an axis's length.

    Attributes:
        title: What is written along the axis.
        low: The value at its low end.
        high: The value at its high end.
        ticks: Values, and what is written at each.
        scaled: A function of values that rises or falls throughout. Along the axis its result is linear.
    """

    title: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    scaled: Callable[[float], float] = float

    @classmethod
    def percent(cls, title: str, highest: float = 1.0) -> Axis:
        """Returns an axis of shares from 0 to 1, or to less if all shares are small.

        Args:
            title: What is written along the axis.
            highest: The greatest share. The axis ends at the first of 0.1, 0.2, 0.5 and 1 that reaches
                it.
        """
        top = min(top for top in (0.1, 0.2, 0.5, 1.0) if top >= min(highest, 1.0))
        return cls(title, 0, top, tuple((top * i / 5, f"{100 * top * i / 5:.3g} %") for i in range(6)))

    @classmethod
    def at(
        cls, title: str, values: Sequence[float], write: Callable[[float], str], *, log: bool = False
    ) -> Axis:
        """Returns an axis over the range of a few values, each of them a tick.

        Args:
            title: What is written along the axis.
            values: The values, at least one.
            write: Gives the text at a value.
            log: Whether the scale is logarithmic; values are then positive.
        """
        low, high = min(values), max(values)
        room = (high - low) * 0.04 or 0.5
        ends = (low / 1.2, high * 1.2) if log else (low - room, high + room)
        ticks = tuple((v, write(v)) for v in sorted(set(values)))
        return cls(title, *ends, ticks, math.log if log else float)

    @classmethod
    def logarithmic(cls, title: str, values: Sequence[float], *, unit: str = "") -> Axis:
        """Returns a logarithmic axis over the range of positive values.

        Ticks are at 1, 2 and 5 of each decade; at 1 to 9 of it if the range is short, and at decades
        alone if it is long.

        Args:
            title: What is written along the axis.
            values: Positive values, at least one.
            unit: What is written after each tick's number.
        """
        low, high = min(values) * 0.95, max(values) * 1.05
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        span = math.log10(high / low)
        steps = range(1, 10) if span < 0.7 else (1, 2, 5) if span < 2.5 else (1,)
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        written = tuple((t, f"{t:g}{unit}") for t in ticks if low <= t <= high)
        return cls(title, low, high, written, math.log)

    @classmethod
    def near_one(cls, title: str, values: Sequence[float]) -> Axis:
        """Returns an axis over values below 1, such as cosines, logarithmic in their distance to 1.

        Args:
            title: What is written along the axis.
            values: Values below 1, at least one.
        """
        lacking = cls.logarithmic("", [1 - value for value in values])
        ticks = tuple((1 - t, f"{1 - t:.10g}") for t, _ in reversed(lacking.ticks))
        return cls(title, 1 - lacking.high, 1 - lacking.low, ticks, lambda value: math.log(1 - value))

    def share(self, value: float) -> float:
        """Returns where a value lies: 0 at the low end, 1 at the high end."""
        low, high = self.scaled(self.low), self.scaled(self.high)
        return (self.scaled(value) - low) / (high - low)


@dataclass(frozen=True)
class _Frame:
    """The area that data are drawn in."""

    x: Axis
    y: Axis
    width: int
    base: int

    def across(self, value: float) -> float:
        return self.at(self.x.share(value))

    def at(self, share: float) -> float:
        return _LEFT + share * (self.width - _LEFT - _RIGHT)

    def up(self, value: float) -> float:
        return self.base - self.y.share(value) * (self.base - _TOP)

    def axes(self) -> Iterator[str]:
        right, middle = self.width - _RIGHT, (_TOP + self.base) / 2
        for value, text in self.y.ticks:
            y = self.up(value)
            yield f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield _text(text, f'class="soft" x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end"')
        free = 0.0
        for value, text in self.x.ticks:
            x, half = self.across(value), 3.6 * len(text)
            if x - half < free:
                continue  # its text would run into the one before
            free = x + half + 4
            yield _text(text, f'class="soft" x="{x:.1f}" y="{self.base + 16}" text-anchor="middle"')
        yield f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{self.base}" y2="{self.base}"/>'
        across = (_LEFT + right) / 2
        yield _text(self.x.title, f'x="{across:.1f}" y="{self.base + 33}" text-anchor="middle"')
        if self.y.title:
            turned = f'transform="translate(13 {middle:.1f}) rotate(-90)" text-anchor="middle"'
            yield _text(self.y.title, turned)


def lines(
    series: Mapping[str, Points],
    x: Axis,
    y: Axis,
    *,
    label: str,
    known: Sequence[str] = (),
    marks: bool = True,
    diagonal: bool = False,
    width: int = 400,
    height: int = 240,
) -> str:
    """Draws a line for each named series of points.

    Args:
        series: Points (x, y) by the series' names.
        x: The horizontal axis.
        y: The vertical axis.
        label: What the chart shows, for screen readers.
        known: Names whose place in this list gives them the same colour and mark in every chart.
        marks: Whether each point has a mark.
        diagonal: Whether a guide is drawn from corner to corner.
        width: Width of the chart, in SVG units.
        height: Height of the chart without its x labels and legend, in SVG units.

    Returns:
        An SVG element, to be put into a page.
    """
    frame = _Frame(x, y, width, height)
    body = list(frame.axes())
    if diagonal:
        ends = (frame.across(x.low), frame.up(y.low)), (frame.across(x.high), frame.up(y.high))
        (x1, y1), (x2, y2) = ends
        body.append(f'<line class="guide" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')
    styled = _styled(series, known)
    for index, points in zip(styled.values(), series.values(), strict=True):
        places = _thinned([(frame.across(a), frame.up(b)) for a, b in points])
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        body.append(f'<polyline class="series {_colour(index)}" points="{path}"/>')
        if marks:
            body += [_mark(index, a, b) for a, b in places]
    return _svg(body, styled, label, width, height)


def scatter(
    points: Mapping[str, tuple[float, float]],
    x: Axis,
    y: Axis,
    *,
    label: str,
    known: Sequence[str] = (),
    width: int = 400,
    height: int = 240,
) -> str:
    """Draws a mark for each named point.

    Args:
        points: Points (x, y) by their names.
        x: The horizontal axis.
        y: The vertical axis.
        label: What the chart shows, for screen readers.
        known: Names whose place in this list gives them the same colour and mark in every chart.
        width: Width of the chart, in SVG units.
        height: Height of the chart without its x labels and legend, in SVG units.

    Returns:
        An SVG element, to be put into a page.
    """
    frame, styled = _Frame(x, y, width, height), _styled(points, known)
    marks = [_mark(styled[name], frame.across(a), frame.up(b)) for name, (a, b) in points.items()]
    return _svg([*frame.axes(), *marks], styled, label, width, height)


def histogram(
    clean: NDArray[np.floating],
    attacked: NDArray[np.floating] | None,
    threshold: float | None,
    *,
    label: str,
    measure: str = "what the gate measures",
    cosine: bool = False,
    width: int = 400,
    height: int = 200,
    bins: int = 32,
) -> str:
    """Draws histograms of a gate's measure, clean and attacked, one over the other, as shares of each.

    The scale is logarithmic. Drifts of 0 count as the smallest of the others, and cosines nearer to 1
    than 1e-5 as 1 - 1e-5.

    Args:
        clean: The measure of clean images, [N], at least one.
        attacked: The measure of attacked images, [M]; None if there are none.
        threshold: Where the gate's threshold is drawn. None draws none, nor does one that the scale
            cannot show: 0, or at least 1 for a cosine.
        label: What the chart shows, for screen readers.
        measure: The name of the measure.
        cosine: Whether the measure is a cosine: the scale is then of its distance to 1.
        width: Width of the chart, in SVG units.
        height: Height of the chart without its x labels and legend, in SVG units.
        bins: Number of bins.

    Returns:
        An SVG element, to be put into a page.
    """
    groups = {"clean": clean} if attacked is None else {"clean": clean, "attacked": attacked}
    pooled = np.concatenate(list(groups.values())).astype(np.float64)
    if cosine:
        high = min(pooled.max(), _NEAREST_ONE)
        low = min(pooled.min(), high)
    else:
        low = pooled[pooled > 0].min(initial=1.0)
        high = max(low, pooled.max())
    gates = [t for t in (threshold,) if t and not (cosine and t >= 1)]
    x = (Axis.near_one if cosine else Axis.logarithmic)(measure, [low, high, *gates])
    edges = np.linspace(0, 1, bins + 1)
    shares = {
        name: np.histogram([x.share(v) for v in values.clip(low, high).tolist()], edges)[0] / len(values)
        for name, values in groups.items()
    }
    frame = _Frame(x, Axis("", 0, max(s.max() for s in shares.values()) * 1.04, ()), width, height)
    body = list(frame.axes())
    for name, heights in shares.items():
        for left, right, share in zip(edges, edges[1:], heights, strict=False):
            if share:
                a, b, top = frame.at(left), frame.at(right), frame.up(share)
                body.append(
                    f'<rect class="{name}" fill-opacity="0.55" x="{a:.1f}" width="{b - a - 0.6:.1f}" '
                    f'y="{top:.1f}" height="{frame.base - top:.1f}"/>'
                )
    for gate in gates:
        at = frame.across(gate)
        body.append(f'<line class="threshold" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{frame.base}"/>')
    for i, name in enumerate(groups):
        left, top = _LEFT + 90 * i, height + 42
        body.append(f'<rect class="{name}" fill-opacity="0.55" x="{left}" y="{top}" width="11" height="11"/>')
        body.append(_text(name, f'x="{left + 17}" y="{top + 10}"'))
    return _wrapped(body, label, width, height + 42 + _ROW)


def alone(*charts: str) -> str:
    """Puts charts one below the other into an SVG file of their own, with the style that they need."""
    sizes = [tuple(map(int, re.findall(r'viewBox="0 0 (\d+) (\d+)"', chart)[0])) for chart in charts]
    width, body, below = max(width for width, _ in sizes), "", 0
    for chart, (own, height) in zip(charts, sizes, strict=True):
        body += chart.replace("<svg", f'<svg y="{below}" width="{own}" height="{height}"', 1)
        below += height + _ROW
    size = f'viewBox="0 0 {width} {below}" width="{2 * width}" height="{2 * below}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{styles("charts")}</style>{body}</svg>\n'


def _styled(names: Iterable[str], known: Sequence[str]) -> dict[str, int]:
    """The number of each name's colour and mark: its place among the known names, then the others."""
    places = {name: place for place, name in enumerate(dict.fromkeys([*known, *names]))}
    return {name: places[name] for name in names}


def _svg(body: list[str], styled: Mapping[str, int], label: str, width: int, height: int) -> str:
    """The marks, and below them the legend in one column or two."""
    columns = 1 if any(len(name) > 26 for name in styled) else 2
    for place, (name, index) in enumerate(styled.items()):
        row, column = divmod(place, columns)
        left, middle = _LEFT + column * (width - _LEFT) // 2, height + 48 + row * _ROW
        body.append(_mark(index, left + 5, middle))
        body.append(_text(name, f'x="{left + 16}" y="{middle + 4}"'))
    rows = math.ceil(len(styled) / columns)
    return _wrapped(body, label, width, height + 42 + rows * _ROW)


def _wrapped(body: list[str], label: str, width: int, height: int) -> str:
    opened = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(label)}">'
    return f"{opened}{''.join(body)}</svg>"


def _text(text: str, attributes: str) -> str:
    return f"<text {attributes}>{html.escape(text)}</text>"


def _colour(index: int) -> str:
    return f"c{index % _COLOURS}"


def _mark(index: int, x: float, y: float, r: float = 4.0) -> str:
    """A shape and a colour, so that series can be told apart without the colour."""
    shapes = (
        f"M{x - r:.1f},{y:.1f}a{r},{r} 0 1 0 {2 * r},0a{r},{r} 0 1 0 {-2 * r},0z",  # disc
        f"M{x - r:.1f},{y - r:.1f}h{2 * r}v{2 * r}h{-2 * r}z",  # square
        f"M{x:.1f},{y - 1.2 * r:.1f}l{1.2 * r:.1f},{2.1 * r:.1f}h{-2.4 * r:.1f}z",  # triangle
        f"M{x:.1f},{y - 5:.1f}l5,5l-5,5l-5,-5z",  # lozenge
    )
    return f'<path class="mark {_colour(index)}" d="{shapes[index % len(shapes)]}"/>'


def _thinned(places: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Drops places on a screen within half a unit of the one kept before; the last stays."""
    kept = places[:1]
    for place in places[1:-1]:
        if max(abs(place[0] - kept[-1][0]), abs(place[1] - kept[-1][1])) >= 0.5:
            kept.append(place)
    return kept + places[1:][-1:]
