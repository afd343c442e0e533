"""The demo's page: one HTML file with everything inside."""

from __future__ import annotations

import base64
import html
import io
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..prediction import Prediction
from .experiment import DemoResult
from .summary import COLUMNS, caption, table_rows, verdict

__all__ = ["write_page"]

_MAGNIFIED = 32
_SHOWN = 10


def write_page(result: DemoResult, out: Path) -> Path:
    """Writes out/index.html and returns its path."""
    template = Template(resources.files("clipfast.demo").joinpath("page.html").read_text(encoding="utf-8"))
    text = template.substitute(
        verdict="".join(f"<li>{html.escape(line.split(' ', 1)[1])}</li>" for line in verdict(result)),
        columns="".join(f"<th>{html.escape(column)}</th>" for column in COLUMNS),
        rows="".join(_row(cells) for cells in table_rows(result)),
        caption=html.escape(caption(result)),
        magnified=_MAGNIFIED,
        pictures="".join(_picture(result, i) for i in _chosen(result)),
        count=len(result.labels),
        histogram=_histogram(result),
        threshold=f"{result.config.tau_threshold:.4g}",
        separation=_separation(result),
    )
    page = out / "index.html"
    partial = page.with_suffix(".tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(page)
    return page


def _row(cells: tuple[str, ...]) -> str:
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


def _chosen(result: DemoResult) -> list[int]:
    """The first pictures that the attack turned, in the order drawn: not picked for their outcome."""
    clean, attacked = (p.undefended_logits.argmax(dim=1) for p in (result.clean, result.attacked))
    turned = (clean == result.labels) & (attacked != result.labels)
    return turned.nonzero().flatten().tolist()[:_SHOWN]


def _picture(result: DemoResult, i: int) -> str:
    clean, attacked = (p[i].numpy() for p in (result.clean_pixels, result.attacked_pixels))
    assert result.attacked.delta is not None
    attack = (attacked.astype(np.float32) - clean.astype(np.float32)) / np.float32(255)
    counter = result.attacked.delta[i].numpy()
    cells = [
        _image(clean, "clean picture") + _answers(result.clean, result, i),
        _image(attacked, "attacked picture") + _answers(result.attacked, result, i),
        _image(_magnify(attack), "attack, magnified"),
        _image(_magnify(counter), "counterattack, magnified")
        + ("countered" if result.attacked.countered[i] else "passed"),
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _answers(prediction: Prediction[Tensor], result: DemoResult, i: int) -> str:
    truth = int(result.labels[i])
    answers = (int(logits[i].argmax()) for logits in (prediction.undefended_logits, prediction.logits))
    return "<br>".join(
        f'<span class="{"right" if answer == truth else "wrong"}">'
        f"{html.escape(prediction.classnames[answer])} {'&#10003;' if answer == truth else '&#10007;'}</span>"
        for answer in answers
    )


def _magnify(perturbation: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint((0.5 + perturbation * _MAGNIFIED).clip(0, 1) * 255).astype(np.uint8)


def _image(pixels: NDArray[np.uint8], alt: str) -> str:
    data = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(data, "PNG")
    return f'<img alt="{alt}" src="data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}">'


def _histogram(result: DemoResult, width: int = 640, height: int = 220, bins: int = 32) -> str:
    """Two overlaid histograms of log10 drift as SVG."""
    drifts = [np.log10(p.drift.numpy()) for p in (result.clean, result.attacked)]
    threshold = np.log10(max(result.config.tau_threshold, 1e-6))
    low, high = (
        min(*(d.min() for d in drifts), threshold) - 0.1,
        max(*(d.max() for d in drifts), threshold) + 0.1,
    )
    edges = np.linspace(low, high, bins + 1)
    counts = [np.histogram(d, edges)[0] for d in drifts]
    top, base, left = max(c.max() for c in counts), height - 40, 10
    span = width - 2 * left

    def at(value: float) -> float:
        return left + (value - low) / (high - low) * span

    bars = "".join(
        f'<rect class="{name}" fill-opacity="0.55" x="{at(edge):.1f}" width="{span / bins - 1:.1f}" '
        f'y="{base - count / top * (base - 30):.1f}" height="{count / top * (base - 30):.1f}"/>'
        for name, column in zip(("clean", "attacked"), counts, strict=True)
        for edge, count in zip(edges, column, strict=False)
    )
    ticks = "".join(
        f'<text x="{at(np.log10(tick)):.1f}" y="{base + 16}" text-anchor="middle">{tick:g}</text>'
        for decade in (0.001, 0.01, 0.1, 1)
        for tick in (decade, 2 * decade, 5 * decade)
        if low <= np.log10(tick) <= high
    )
    legend = "".join(
        f'<rect class="{name}" fill-opacity="0.55" x="{x}" y="4" width="12" height="12"/>'
        f'<text x="{x + 18}" y="14">{name}</text>'
        for name, x in (("clean", left), ("attacked", left + 70))
    )
    label = "histograms of drift, clean and attacked"
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{bars}{ticks}{legend}'
        f'<line class="axis" x1="{left}" x2="{left + span}" y1="{base}" y2="{base}"/>'
        f'<text x="{left + span / 2}" y="{height - 6}" text-anchor="middle">drift tau</text>'
        f'<line class="threshold" x1="{at(threshold):.1f}" x2="{at(threshold):.1f}" y1="18" y2="{base}"/>'
        "</svg>"
    )


def _separation(result: DemoResult) -> str:
    """How often an attacked picture drifts less than a clean one (the gate's AUROC), in words."""
    lower = (result.attacked.drift[:, None] < result.clean.drift[None]).double().mean().item()
    found = f"An attacked picture drifts less than a clean one in {100 * lower:.0f} % of pairs"
    if lower > 0.6:
        return f"{found}."
    return f"{found}: <strong>here the gate does not separate attacked pictures from clean ones</strong>."
