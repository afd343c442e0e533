"""The demo's page: one HTML file that needs no other file."""

from __future__ import annotations

import html
from pathlib import Path

import numpy as np
from torch import Tensor

from .. import pages
from ..calibration.separation import separation
from ..config import GATES, Preset
from ..files import write_text
from ..pages.pictures import MAGNIFIED, image, magnified
from ..prediction import Prediction
from .experiment import UNDEFENDED, Defended, DemoResult
from .stages import stages
from .subject import DEFENCES
from .wording import COLUMNS, demo_caption, demo_verdict, table_rows

__all__ = ["write_gallery"]

_SHOWN = 10


def write_gallery(result: DemoResult, out: Path) -> Path:
    """Writes the page to index.html in a folder.

    Args:
        result: The results of the demo.
        out: The folder.

    Returns:
        The file's path.

    Raises:
        InputError: If the file cannot be written.
    """
    text = pages.filled(
        "clipfast.demo",
        lead=html.escape(result.described.lead),
        limits=html.escape(result.described.limits),
        verdict="".join(f"<li>{html.escape(line.split(' ', 1)[1])}</li>" for line in demo_verdict(result)),
        columns="".join(f"<th>{html.escape(column)}</th>" for column in COLUMNS),
        rows="".join(_row(cells) for cells in table_rows(result)),
        caption=html.escape(demo_caption(result)),
        stages="".join(_stages(result, preset) for preset in DEFENCES),
        magnified=str(MAGNIFIED),
        counterattacks="".join(f"<th>{html.escape(name)}, x{MAGNIFIED}</th>" for name in DEFENCES.values()),
        pictures="".join(_picture(result, i) for i in _chosen(result)),
        count=str(len(result.labels)),
        gates="".join(
            _gate(result, preset) for preset in DEFENCES if not result.defences[preset].config.is_fixed
        ),
    )
    page = out / "index.html"
    write_text(page, text)
    return page


def _row(cells: tuple[str, ...]) -> str:
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


def _stages(result: DemoResult, preset: Preset) -> str:
    told = stages(result.defences[preset].config)
    items = "".join(
        f"<dt>{stage}</dt><dd>{html.escape(words)}</dd>" for stage, words in told._asdict().items()
    )
    return f"<section><h3>{html.escape(DEFENCES[preset])}</h3><dl>{items}</dl></section>"


def _chosen(result: DemoResult) -> list[int]:
    """The first pictures that the attack turned, in the order drawn: not picked for their outcome."""
    any_defence = next(iter(result.defences.values()))
    clean, attacked = (p.undefended_logits.argmax(dim=1) for p in (any_defence.clean, any_defence.attacked))
    turned = (clean == result.labels) & (attacked != result.labels)
    return turned.nonzero().flatten().tolist()[:_SHOWN]


def _picture(result: DemoResult, i: int) -> str:
    clean, attacked = (p[i].numpy() for p in (result.clean_pixels, result.attacked_pixels))
    attack = (attacked.astype(np.float32) - clean.astype(np.float32)) / np.float32(255)
    defences = result.defences
    cells = [
        image(clean, "clean picture") + _answers({k: d.clean for k, d in defences.items()}, result, i),
        image(attacked, "attacked picture")
        + _answers({k: d.attacked for k, d in defences.items()}, result, i),
        image(magnified(attack), "attack, magnified"),
        *(_counterattack(defended, i) for defended in defences.values()),
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _answers(predictions: dict[Preset, Prediction[Tensor]], result: DemoResult, i: int) -> str:
    """What the undefended model says of picture i, and what each defence does, a line each."""
    truth = int(result.labels[i])
    any_prediction = next(iter(predictions.values()))
    logits = {
        UNDEFENDED: any_prediction.undefended_logits,
        **{DEFENCES[preset]: prediction.logits for preset, prediction in predictions.items()},
    }
    lines = []
    for name, z in logits.items():
        answer = int(z[i].argmax())
        kind, mark = ("right", "&#10003;") if answer == truth else ("wrong", "&#10007;")
        said = html.escape(any_prediction.classnames[answer])
        lines.append(f'<dt>{html.escape(name)}</dt><dd class="{kind}">{said} {mark}</dd>')
    return f"<dl>{''.join(lines)}</dl>"


def _counterattack(defended: Defended, i: int) -> str:
    prediction = defended.attacked
    assert prediction.delta is not None
    added = prediction.delta[i].numpy()
    state = "countered" if prediction.countered[i] else "passed the gate"
    if defended.config.is_fixed:
        state = "no gate"
    state += "" if added.any() else ", nothing added"
    return image(magnified(added), "counterattack, magnified") + state


def _gate(result: DemoResult, preset: Preset) -> str:
    """What a gate measures of the pictures, and how well it separates them."""
    defended = result.defences[preset]
    gate, threshold = GATES[defended.config.gate], defended.config.tau_threshold
    clean, attacked = (p.drift.numpy() for p in (defended.clean, defended.attacked))
    chart = pages.histogram(
        clean,
        attacked,
        threshold,
        label=f"histograms of {gate.measures}, clean and attacked: {DEFENCES[preset]}",
        measure=gate.measures,
        cosine=gate.cosine,
        width=640,
        height=180,
    )
    scale = "logarithmic in what it lacks of 1" if gate.cosine else "logarithmic"
    said = (
        f"{DEFENCES[preset]}: {gate.measures}. The scale is {scale}. Pictures left of the dashed line "
        f"(tau_threshold = {threshold:.4g}) are countered. "
        f"On these pictures {separation(clean, attacked)}."
    )
    return f"<figure>{chart}<figcaption>{html.escape(said[0].upper() + said[1:])}</figcaption></figure>"
