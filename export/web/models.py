"""Writes what the page runs and shows: three ONNX files, pictures, and classifier.json, which describes them.

python export/web/models.py --out export/web/public/models
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from gradient import write_gradient, write_undefended
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clipfast import DefendedClassifier
from clipfast.evaluation.attacks import to_bytes
from clipfast.evaluation.measure import PGD_STEP_SIZE, PGD_STEPS, attack_in_chunks
from clipfast.evaluation.shapes import CLASSNAMES, KINDS, draw
from clipfast.evaluation.systems import undefended
from clipfast.exporters import export
from clipfast.files import write_text

__all__ = ["write_models"]

ATTACK_EPS = 2 / 255
_SEED = 0
_STREAM = 400  # of drawn pictures: no other part of clipfast draws these
_PAIRS = 6


def write_models(out: Path, *, drawn: int) -> None:
    """Fills the folder `out`, which need not exist. drawn: pictures drawn and attacked for the drift scale.

    The supplied pairs are the first six whose undefended label the attack turned, whatever the defence makes
    of them.
    """
    classifier = DefendedClassifier.bundled()
    out.mkdir(parents=True, exist_ok=True)
    exported = export(classifier, out / "defended.onnx", profile="lab", verify=False)
    write_undefended(classifier, out / "undefended.onnx")
    write_gradient(classifier, out / "gradient.onnx")
    pictures = draw(drawn, seed=(_STREAM, _SEED), size=classifier.image_size[0])
    clean, labels = torch.from_numpy(pictures.pixels), torch.from_numpy(pictures.labels)
    attacked = _attacked(classifier, clean, labels)
    before, after = (classifier.predict(pixels, seed=_SEED) for pixels in (clean, attacked))
    was, became = (p.undefended_logits.argmax(dim=1) for p in (before, after))
    turned = ((was == labels) & (became != labels)).nonzero().flatten()[:_PAIRS]
    pairs = []
    for i in turned.tolist():
        names = {"label": CLASSNAMES[pictures.labels[i]], "background": KINDS[pictures.kinds[i]]}
        for kind, pixels in (("clean", clean), ("attacked", attacked)):
            names[kind] = f"{i:02d}-{names['label'].replace(' ', '-')}-{kind}.png"
            _save(pixels[i].numpy(), out / names[kind])
        pairs.append(names)
    description = {
        "metadata": json.loads(exported.metadata.to_json()),
        "attack": {"eps": ATTACK_EPS, "step_size": PGD_STEP_SIZE, "steps": PGD_STEPS},
        "pictures": pairs,
        "drift": {"clean": before.drift.tolist(), "attacked": after.drift.tolist()},
    }
    # The page reads this first, so it is written last.
    write_text(out / "classifier.json", json.dumps(description, indent=1))


def _attacked(classifier: DefendedClassifier, clean: Tensor, labels: Tensor) -> Tensor:
    """PGD on the undefended model, as 8-bit pictures: uint8 [N, 3, H, W]."""
    x = clean.float() / 255
    return to_bytes(
        attack_in_chunks(undefended(classifier), x, labels, eps=ATTACK_EPS, seed=_SEED), x, ATTACK_EPS
    )


def _save(pixels: NDArray[np.uint8], path: Path) -> None:
    Image.fromarray(pixels.transpose(1, 2, 0)).save(path)


def main(
    out: Annotated[Path, typer.Option(help="Folder to write into.")],
    drawn: Annotated[int, typer.Option(min=1, help="Pictures drawn for the drift scale.")] = 64,
) -> None:
    """Writes the page's models and pictures."""
    write_models(out, drawn=drawn)


if __name__ == "__main__":
    typer.run(main)
