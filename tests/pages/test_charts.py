"""Charts as SVG: where marks stand, and that names, colours and styles are right."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from clipfast.pages import Axis, alone, histogram, lines, scatter
from clipfast.pages.charts import _thinned

NAME = '<b> & "c"'


def bars(svg: str, name: str) -> list[dict[str, float]]:
    """The bars of a histogram's group; the legend's swatch, the last, left out."""
    found = [e.attrib for e in ElementTree.fromstring(svg).iter("rect") if e.get("class") == name][:-1]
    return [{key: float(bar[key]) for key in ("x", "y", "width", "height")} for bar in found]


def places(svg: str) -> list[list[tuple[float, float]]]:
    """The points of each line."""
    found = [e.attrib["points"] for e in ElementTree.fromstring(svg).iter("polyline")]
    return [[tuple(map(float, point.split(","))) for point in points.split()] for points in found]


def grid(svg: str) -> list[float]:
    return [
        float(e.attrib["y1"]) for e in ElementTree.fromstring(svg).iter("line") if e.get("class") == "grid"
    ]


def test_axes_know_where_values_lie():
    assert Axis("", 2, 6, ()).share(3) == 0.25
    log = Axis.logarithmic("", [1, 100])
    assert log.share(10) == pytest.approx(0.5, abs=0.01)
    assert log.share(log.low) == 0
    assert log.share(log.high) == 1
    powers = Axis.at("", [1, 2, 4, 8], "{:.0f}".format, log=True)
    shares = [powers.share(value) for value, _ in powers.ticks]
    assert np.diff(shares) == pytest.approx([shares[1] - shares[0]] * 3)
    assert [text for _, text in powers.ticks] == ["1", "2", "4", "8"]
    assert Axis.at("", [3.0], str).share(3.0) == 0.5
    cosines = Axis.near_one("", [0.0, 0.99])
    assert cosines.share(0.9) == pytest.approx(0.5, abs=0.02)
    assert cosines.share(cosines.low) == 0
    assert cosines.share(cosines.high) == 1
    assert [text for _, text in cosines.ticks] == ["0", "0.5", "0.8", "0.9", "0.95", "0.98", "0.99"]
    assert [cosines.share(value) for value, _ in cosines.ticks] == sorted(
        cosines.share(value) for value, _ in cosines.ticks
    )


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.5, 0.95], ["0.5", "0.6", "0.7", "0.8", "0.9"]),
        ([0.006, 0.2], ["0.01", "0.02", "0.05", "0.1", "0.2"]),
        ([1e-4, 0.5], ["0.0001", "0.001", "0.01", "0.1"]),
    ],
)
def test_ticks_suit_the_range(values, ticks):
    assert [text for _, text in Axis.logarithmic("", values).ticks] == ticks


@pytest.mark.parametrize(
    ("highest", "top", "text"),
    [(1.0, 1, "100 %"), (0.4, 0.5, "50 %"), (0.03, 0.1, "10 %"), (0.0, 0.1, "10 %")],
)
def test_shares_have_an_axis_that_they_fill(highest, top, text):
    axis = Axis.percent("", highest)
    assert (axis.low, axis.high) == (0, top)
    assert axis.ticks[-1] == (pytest.approx(top), text)


def test_lines_go_where_their_points_are():
    y = Axis.percent("right")
    svg = lines({"a": [(0, 0), (0.5, 1)], "b": [(1, 0.2), (0, 0.2)]}, Axis.percent("x"), y, label="two")
    rows = grid(svg)
    (a, b) = places(svg)
    assert [point[1] for point in a] == [rows[0], rows[5]]
    assert {point[1] for point in b} == {rows[1]}
    assert a[1][0] == pytest.approx((b[0][0] + b[1][0]) / 2)
    assert b[0][0] > a[0][0] == b[1][0]
    assert rows == sorted(rows, reverse=True)


def test_a_name_has_its_colour_and_mark_in_every_chart():
    x, points = Axis.percent(""), [(0, 0), (1, 1)]
    known = ["first", "second"]
    svg = lines({"second": points, "new": points}, x, x, label="", known=known, marks=False)
    assert re.findall(r'class="series (c\d)"', svg) == ["c1", "c2"]
    assert re.findall(r'class="mark (c\d)"', svg) == ["c1", "c2"]  # the legend's
    svg = scatter({"second": (0, 0)}, x, x, label="", known=known)
    shapes = re.findall(r'class="mark (c\d)" d="[^"]*?([a-z])', svg)
    assert shapes == [("c1", "h")] * 2  # the point and the legend, both the second shape


def test_names_are_escaped_and_svg_is_xml():
    x = Axis(NAME, 0, 1, ((0.5, NAME),))
    svg = lines({NAME: [(0, 0), (1, 1)]}, x, x, label=NAME, diagonal=True)
    root = ElementTree.fromstring(svg)
    assert root.attrib["aria-label"] == NAME
    assert [e.text for e in root.iter("text")].count(NAME) == 5  # two ticks, two titles and the legend
    (diagonal,) = (e for e in root.iter("line") if e.get("class") == "guide")
    assert places(svg)[0] == [
        tuple(float(diagonal.attrib[k]) for k in p) for p in (("x1", "y1"), ("x2", "y2"))
    ]


def test_a_histogram_is_of_shares():
    clean, attacked = np.full(30, 0.01), np.array([0.01] * 2 + [0.1] * 6)
    svg = histogram(clean, attacked, 0.05, label="drift")
    (one,), two = bars(svg, "clean"), bars(svg, "attacked")
    assert [bar["height"] / one["height"] for bar in two] == pytest.approx([0.25, 0.75], abs=0.01)
    assert two[0]["x"] == one["x"] < two[1]["x"]
    assert len({bar["y"] + bar["height"] for bar in (one, *two)}) == 1
    (line,) = (e for e in ElementTree.fromstring(svg).iter("line") if e.get("class") == "threshold")
    assert one["x"] < float(line.attrib["x1"]) < two[1]["x"]
    assert "threshold" not in histogram(clean, None, 0.0, label="")


def test_a_histogram_of_cosines_spreads_those_near_one():
    clean, attacked = np.array([0.999, 0.99, 1.0000001, 1.0], np.float32), np.array([0.9, -0.5], np.float32)
    svg = histogram(clean, attacked, 0.95, label="", measure="agreement", cosine=True)
    one, two = bars(svg, "clean"), bars(svg, "attacked")
    heights = [bar["height"] for bar in one]
    assert heights == pytest.approx([heights[0], heights[0], 2 * heights[0]], abs=0.2)  # ones share a bar
    assert two[0]["x"] < two[1]["x"] < one[0]["x"] < one[1]["x"] < one[2]["x"]
    assert one[1]["x"] - one[0]["x"] == pytest.approx(one[0]["x"] - two[1]["x"], abs=2 * one[0]["width"])
    (line,) = (e for e in ElementTree.fromstring(svg).iter("line") if e.get("class") == "threshold")
    assert two[1]["x"] < float(line.attrib["x1"]) < one[0]["x"]
    assert "agreement" in [e.text for e in ElementTree.fromstring(svg).iter("text")]
    assert "threshold" not in histogram(clean, None, 2.0, label="", cosine=True)
    assert bars(histogram(np.ones(4), None, None, label="", cosine=True), "clean")


def test_drifts_of_zero_are_counted():
    svg = histogram(np.array([0, 0, 0, 0.01]), np.array([0.02]), None, label="")
    heights = [bar["height"] for bar in bars(svg, "clean")]
    assert heights == [max(heights)]
    assert bars(histogram(np.zeros(4), None, None, label=""), "clean")


def test_texts_of_ticks_do_not_run_into_each_other():
    x = Axis("", 0, 1000, tuple((float(v), str(v)) for v in range(900, 1001, 2)))
    svg = lines({"a": [(900, 0), (1000, 1)]}, x, Axis.percent(""), label="")
    texts = [e for e in ElementTree.fromstring(svg).iter("text") if e.get("text-anchor") == "middle"]
    centres = [float(e.attrib["x"]) for e in texts if (e.text or "").isdigit()]
    assert 1 < len(centres) < 10
    assert min(np.diff(centres)) > 20


def test_lines_are_thinned_and_keep_their_ends():
    fine = [(i / 100, 0.0) for i in range(1001)]
    kept = _thinned(fine)
    assert kept[0] == fine[0]
    assert kept[-1] == fine[-1]
    assert len(kept) < 25
    assert _thinned([(0.0, 0.0)]) == [(0.0, 0.0)]
    assert _thinned([(0.0, 0.0), (0.1, 0.1)]) == [(0.0, 0.0), (0.1, 0.1)]


def test_a_file_of_its_own_has_charts_one_below_the_other():
    x = Axis.percent("")
    charts = [
        lines({"a": [(0, 0), (1, 1)]}, x, x, label="one"),
        histogram(np.ones(3), None, None, label="two"),
    ]
    root = ElementTree.fromstring(alone(*charts))
    space = "{http://www.w3.org/2000/svg}"
    first, second = root.findall(f"{space}svg")
    assert [first.attrib["aria-label"], second.attrib["aria-label"]] == ["one", "two"]
    assert float(second.attrib["y"]) >= float(first.attrib["y"]) + float(first.attrib["height"])
    (style,) = root.findall(f"{space}style")
    assert "prefers-color-scheme: dark" in style.text
