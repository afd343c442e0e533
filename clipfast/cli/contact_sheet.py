"""`clipfast classify --html`: what was answered, as a page of pictures."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import pages
from ..config import GATES, CounterattackConfig
from ..files import write_text
from ..pages.pictures import MAGNIFIED, image, magnified
from ..prediction import Prediction, Stats

__all__ = ["ContactSheet"]

_LONGEST = 160  # pixels of a picture's side


class ContactSheet:
    """Collects pictures with their answers, and writes them to one HTML file.

    Args:
        config: The settings that answered.
    """

    def __init__(self, config: CounterattackConfig) -> None:
        self._config = config
        self._figures: list[str] = []

    def add(self, files: list[Path], pixels: NDArray[np.uint8], prediction: Prediction[Any]) -> None:
        """Adds N pictures.

        Args:
            files: The N files, for their names.
            pixels: uint8 [N, 3, H, W], as the model sees them.
            prediction: Their answers. Its delta is shown if it has one.
        """
        for i, file in enumerate(files):
            self._figures.append(self._figure(file, pixels[i], prediction, i))

    def write(self, path: Path, stats: Stats) -> None:
        """Writes the page.

        Args:
            path: The file.
            stats: The counts over all pictures.

        Raises:
            InputError: If the file cannot be written.
        """
        counts = f"{stats.images} images, {stats.countered} countered, {stats.changed} answers changed."
        text = pages.filled("clipfast.cli", counts=counts, figures="".join(self._figures))
        write_text(path, text)

    def _figure(self, file: Path, pixels: NDArray[np.uint8], prediction: Prediction[Any], i: int) -> str:
        best = prediction.topk(1)[i][0]
        lines = [f"<strong>{html.escape(best[0])}</strong> {best[1]:.3f}"]
        if bool(prediction.undefended_known[i]):
            plain = prediction.classnames[int(prediction.undefended_logits[i].argmax())]
            kind = ' class="changed"' if bool(prediction.changed[i]) else ""
            lines.append(f"<span{kind}>undefended: {html.escape(plain)}</span>")
        if not self._config.is_fixed:
            state = "countered" if bool(prediction.countered[i]) else "passed"
            measure = GATES[self._config.gate].measures
            lines.append(f"{state}: {measure} {float(prediction.drift[i]):.4f}")
        pictures = image(pixels, f"{file.name}: {best[0]}", longest=_LONGEST)
        if prediction.delta is not None:
            delta = np.asarray(prediction.delta[i], np.float32)
            if delta.any():
                what = f"what was added, magnified {MAGNIFIED} times"
                pictures += image(magnified(delta), what, longest=_LONGEST)
        words = "<br>".join([*lines, html.escape(str(file))])
        return f"<figure><div>{pictures}</div><figcaption>{words}</figcaption></figure>"
