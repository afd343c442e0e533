"""Writes what the page runs and shows: ONNX files over one file of weights, pictures, and classifier.json.

python export/web/models.py --out export/web/public/models
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from gradient import write_gradient, write_undefended
from PIL import Image
from shared_weights import share_weights
from torch import Tensor

from clipfast import DefendedClassifier, Prediction
from clipfast.attacks import to_bytes
from clipfast.attacks.pgd10 import PGD_STEP_SIZE, PGD_STEPS, attack_in_chunks
from clipfast.attacks.system import undefended
from clipfast.calibration.separation import separation
from clipfast.config import GATES, CounterattackConfig, Preset
from clipfast.demo.experiment import ATTACK_EPS
from clipfast.demo.stages import stages
from clipfast.demo.subject import DEFENCES
from clipfast.exporters import export
from clipfast.files import write_text
from clipfast.models.bundled import bundled_defaults, bundled_folder
from clipfast.models.shapes import CLASSNAMES, Pictures, draw

__all__ = ["write_models"]

_SEED = 0
_STREAM = 400  # of drawn pictures: no other part of clipfast draws these
_PAIRS = 6
_FIRST: Preset = "recommended"  # what the page begins with
# What an exported file's metadata say of its defence alone; the rest is the same for both.
_OF_ITS_OWN = ("config", "calibrated", "calibration")


def write_models(out: Path, *, drawn: int) -> None:
    """Fills the folder `out`, which need not exist. drawn: how many pictures are drawn and attacked.

    The supplied pairs are of those that the attack turned: first up to three that the recommended defence
    brought back, then up to three others, and more of the first where there are not so many. How many there
    are of each is written down, too.
    """
    out.mkdir(parents=True, exist_ok=True)
    presets: list[Preset] = sorted(DEFENCES, key=lambda preset: preset != _FIRST)
    base = DefendedClassifier.bundled(preset=_FIRST)
    folder = bundled_folder("drawn")
    classifiers = {preset: base.with_config(bundled_defaults(folder, preset).config) for preset in presets}
    files = {preset: out / f"{preset}.onnx" for preset in presets}
    described = [
        json.loads(export(classifiers[preset], files[preset], profile="lab", verify=False).metadata.to_json())
        for preset in presets
    ]
    others = out / "undefended.onnx", out / "gradient.onnx"
    write_undefended(base, others[0])
    write_gradient(base, others[1])
    share_weights([*files.values(), *others], out / "weights.bin")

    pictures = draw(drawn, seed=(_STREAM, _SEED), size=base.image_size[0])
    clean, labels = torch.from_numpy(pictures.pixels), torch.from_numpy(pictures.labels)
    attacked = _attacked(base, clean, labels)
    answers = {
        preset: [classifiers[preset].predict(pixels, seed=_SEED) for pixels in (clean, attacked)]
        for preset in presets
    }
    right, still = (p.undefended_logits.argmax(dim=1) == labels for p in answers[_FIRST])
    turned = right & ~still
    back = {preset: turned & (after.labels == labels) for preset, (_, after) in answers.items()}
    saved, lost = _indices(back[_FIRST]), _indices(turned & ~back[_FIRST])
    half = _PAIRS // 2
    chosen = [*saved[:half], *lost[:half], *saved[half:], *lost[half:]][:_PAIRS]
    metadata = {name: value for name, value in described[0].items() if name not in _OF_ITS_OWN}
    description = {
        "metadata": metadata,
        "defences": [
            {
                "preset": preset,
                **{name: own[name] for name in _OF_ITS_OWN},
                **_defence(classifiers[preset].config, DEFENCES[preset]),
                "sample": {
                    "brought_back": int(back[preset].sum()),
                    "lost_clean": int((right & (answers[preset][0].labels != labels)).sum()),
                    **_measured(*answers[preset]),
                },
            }
            for preset, own in zip(presets, described, strict=True)
        ],
        "attack": {"eps": ATTACK_EPS, "step_size": PGD_STEP_SIZE, "steps": PGD_STEPS},
        "pictures": [
            {
                **_pair(out, i, pictures, attacked),
                "brought_back": [preset for preset in presets if back[preset][i]],
            }
            for i in chosen
        ],
        "turned": int(turned.sum()),
    }
    # The page reads this first, so it is written last.
    write_text(out / "classifier.json", json.dumps(description, indent=1))


def _defence(config: CounterattackConfig, title: str) -> dict[str, Any]:
    """What the page says of a defence."""
    gate = GATES[config.gate]
    return {
        "title": title,
        "randomised": config.is_randomised(),
        "measure": None if config.is_fixed else {"name": gate.measures, "cosine": gate.cosine},
        "stages": stages(config)._asdict(),
    }


def _measured(clean: Prediction[Tensor], attacked: Prediction[Tensor]) -> dict[str, Any]:
    """What a gate measures of the drawn pictures, and how well that tells attacked ones."""
    drifts = clean.drift.numpy(), attacked.drift.numpy()
    return {
        "clean": drifts[0].tolist(),
        "attacked": drifts[1].tolist(),
        "separation": str(separation(*drifts)),
    }


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
