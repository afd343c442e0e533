"""Writes what the page runs and shows: three ONNX files, pictures, and classifier.json, which describes them.

python export/web/models.py --out export/web/public/models
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from gradient import write_gradient, write_undefended
from PIL import Image
from torch import Tensor

from clipfast import DefendedClassifier
from clipfast.attacks import to_bytes
from clipfast.attacks.pgd10 import PGD_STEP_SIZE, PGD_STEPS, attack_in_chunks
from clipfast.attacks.system import undefended
from clipfast.demo.experiment import ATTACK_EPS
from clipfast.exporters import export
from clipfast.files import write_text
from clipfast.models.shapes import CLASSNAMES, Pictures, draw

__all__ = ["write_models"]

_SEED = 0
_STREAM = 400  # of drawn pictures: no other part of clipfast draws these
_PAIRS = 6


def write_models(out: Path, *, drawn: int) -> None:
    """Fills the folder `out`, which need not exist. drawn: how many pictures are drawn and attacked.

    The supplied pairs are of those that the attack turned: first up to three that the defence brought back,
    then others. How many there are of each is written down, too.
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
    right, still = (p.undefended_logits.argmax(dim=1) == labels for p in (before, after))
    turned = right & ~still
    back = turned & (after.labels == labels)
    first = _indices(back)[: _PAIRS // 2]
    chosen = [*first, *_indices(turned & ~back)[: _PAIRS - len(first)]]
    description = {
        "metadata": json.loads(exported.metadata.to_json()),
        "attack": {"eps": ATTACK_EPS, "step_size": PGD_STEP_SIZE, "steps": PGD_STEPS},
        "pictures": [{**_pair(out, i, pictures, attacked), "brought_back": bool(back[i])} for i in chosen],
        "sample": {
            "turned": int(turned.sum()),
            "brought_back": int(back.sum()),
            "lost_clean": int((right & (before.labels != labels)).sum()),
            "clean_drift": before.drift.tolist(),
            "attacked_drift": after.drift.tolist(),
        },
    }
    # The page reads this first, so it is written last.
    write_text(out / "classifier.json", json.dumps(description, indent=1))


def _pair(out: Path, i: int, pictures: Pictures, attacked: Tensor) -> dict[str, str]:
    """Writes a picture clean and attacked; its label and the names of the files."""
    label = CLASSNAMES[pictures.labels[i]]
    pair = {"label": label}
    for kind, pixels in (("clean", pictures.pixels[i]), ("attacked", attacked[i].numpy())):
        pair[kind] = f"{i:02d}-{label.replace(' ', '-')}-{kind}.png"
        Image.fromarray(pixels.transpose(1, 2, 0)).save(out / pair[kind])
    return pair


def _indices(flags: Tensor) -> list[int]:
    """Where flags bool [N] are set."""
    return flags.nonzero().flatten().tolist()


def _attacked(classifier: DefendedClassifier, clean: Tensor, labels: Tensor) -> Tensor:
    """PGD on the undefended model, as 8-bit pictures: uint8 [N, 3, H, W]."""
    x = clean.float() / 255
    return to_bytes(
        attack_in_chunks(undefended(classifier), x, labels, eps=ATTACK_EPS, seed=_SEED), x, ATTACK_EPS
    )


def main(
    out: Annotated[Path, typer.Option(help="Folder to write into.")],
    drawn: Annotated[int, typer.Option(min=1, help="Pictures drawn and attacked.")] = 64,
) -> None:
    """Writes the page's models and pictures."""
    write_models(out, drawn=drawn)


if __name__ == "__main__":
    typer.run(main)
