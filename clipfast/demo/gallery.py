"""The demo's page: one HTML file with everything inside."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .. import pages
from ..calibration.separation import separation
from ..files import write_text
from ..prediction import Prediction
from .experiment import DemoResult
from .wording import COLUMNS, demo_caption, demo_verdict, table_rows

__all__ = ["write_gallery"]

_MAGNIFIED = 32
_SHOWN = 10


def write_gallery(result: DemoResult, out: Path) -> Path:
    """Writes out/index.html and returns its path."""
    text = pages.filled(
        "clipfast.demo",
        verdict="".join(f"<li>{html.escape(line.split(' ', 1)[1])}</li>" for line in demo_verdict(result)),
        columns="".join(f"<th>{html.escape(column)}</th>" for column in COLUMNS),
        rows="".join(_row(cells) for cells in table_rows(result)),
        caption=html.escape(demo_caption(result)),
        magnified=str(_MAGNIFIED),
        pictures="".join(_picture(result, i) for i in _chosen(result)),
        count=str(len(result.labels)),
        histogram=_histogram(result),
        threshold=f"{result.config.tau_threshold:.4g}",
        separation=_separation(result),
    )
    page = out / "index.html"
    write_text(page, text)
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


def _histogram(result: DemoResult) -> str:
    return pages.histogram(
        result.clean.drift.numpy(),
        result.attacked.drift.numpy(),
        result.config.tau_threshold,
        label="histograms of drift, clean and attacked",
        width=640,
        height=180,
    )


def _separation(result: DemoResult) -> str:
    """How well the gate separates, in words."""
    found = separation(result.clean.drift.numpy(), result.attacked.drift.numpy())
    return html.escape(f"On these pictures {found}.")
