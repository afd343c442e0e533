"""Writes what the page runs and shows: a folder a model, and models.json, which names them.

In a folder are ONNX files over one file of weights, pictures, and classifier.json, which describes them.

python export/web/models.py --out export/web/public/models
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

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
from clipfast.evaluation.datasets import find_dataset
from clipfast.exporters import export
from clipfast.files import write_text
from clipfast.models.bundled import BundledName, bundled_defaults, bundled_folder
from clipfast.models.shapes import draw

__all__ = ["Shown", "drawn_shapes", "photographs", "write_models"]

_SEED = 0
_STREAM = 400  # of drawn pictures: no other part of clipfast draws these
_PAIRS = 6
_FIRST: Preset = "recommended"  # what the page begins with
# What an exported file's metadata say of its defence alone; the rest is the same for both.
_OF_ITS_OWN = ("config", "calibrated", "calibration")


class Shown(NamedTuple):
    """A bundled model on the page.

    title: what it is of. pixels: uint8 [N, 3, H, W], clean, and labels: int64 [N], of a sample that is
    attacked; N may be 0. words: see description.ts.
    """

    name: BundledName
    title: str
    pixels: Tensor
    labels: Tensor
    words: dict[str, str]


def drawn_shapes(drawn: int) -> Shown:
    """The model of drawn shapes. drawn: how many pictures are drawn and attacked."""
    pictures = draw(drawn, seed=(_STREAM, _SEED))
    return Shown(
        "drawn",
        "drawn shapes",
        torch.from_numpy(pictures.pixels),
        torch.from_numpy(pictures.labels),
        {
            "knows": "120 coloured shapes",
            "pictures": "drawn pictures",
            "labelled": "drawn as",
            "limits": "It was trained on drawn shapes: whatever you drop, it will name a shape.",
        },
    )


def photographs(folder: Path | None, taken: int) -> Shown:
    """The model of photographs.

    folder: of class folders; the first `taken` pictures that `clipfast eval` draws of it are attacked. None:
    the page waits for a visitor's.
    """
    name: BundledName = "photographs"
    shown = Shown(
        name,
        "photographs",
        torch.empty(0, 3, 32, 32, dtype=torch.uint8),
        torch.empty(0, dtype=torch.int64),
        {
            "knows": "ten kinds of animals and vehicles",
            "pictures": "photographs",
            "labelled": "labelled as",
            "limits": (
                "It was trained on photographs of 32 pixels: whatever you drop is shrunk to that, and gets "
                "one of ten names."
            ),
        },
    )
    if folder is None:
        return shown
    classifier, dataset = DefendedClassifier.bundled(name), find_dataset(folder)
    if unknown := set(dataset.classnames) - set(classifier.classnames):
        raise typer.BadParameter(
            f"expected folders of {', '.join(classifier.classnames)}; got {min(unknown)}"
        )
    images = dataset.take(classifier.preprocess, taken)
    labels = [classifier.classnames.index(dataset.classnames[i]) for i in images.labels.tolist()]
    return shown._replace(pixels=images.pixels, labels=torch.tensor(labels))


def write_models(out: Path, models: Sequence[Shown]) -> None:
    """Fills the folder `out`, which need not exist; the page begins with the first of the models."""
    for shown in models:
        write_model(out / shown.name, shown)
    choices = [{"folder": shown.name, "title": shown.title} for shown in models]
    # The page reads this first, so it is written last.
    write_text(out / "models.json", json.dumps(choices, indent=1))


def write_model(out: Path, shown: Shown) -> None:
    """Fills one model's folder.

    The supplied pairs are of those that the attack turned: first up to three that the recommended defence
    brought back, then up to three others, and more of the first where there are not so many. How many there
    are of each is written down, too.
    """
    out.mkdir(parents=True, exist_ok=True)
    presets: list[Preset] = sorted(DEFENCES, key=lambda preset: preset != _FIRST)
    base, folder = DefendedClassifier.bundled(shown.name, preset=_FIRST), bundled_folder(shown.name)
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

    clean, labels = shown.pixels, shown.labels
    attacked = _attacked(base, clean, labels)
    answers = {
        preset: [
            classifiers[preset].predict(pixels, seed=_SEED, with_undefended=True)
            for pixels in (clean, attacked)
        ]
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
                "sample": None
                if len(labels) == 0
                else {
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
                **_pair(out, i, base.classnames[labels[i]], clean[i], attacked[i]),
                "brought_back": [preset for preset in presets if back[preset][i]],
            }
            for i in chosen
        ],
        "turned": int(turned.sum()),
        "words": shown.words,
    }
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
    """What a gate measures of a sample, and how well that tells attacked ones."""
    drifts = clean.drift.numpy(), attacked.drift.numpy()
    return {
        "clean": drifts[0].tolist(),
        "attacked": drifts[1].tolist(),
        "separation": str(separation(*drifts)),
    }


def _pair(out: Path, i: int, label: str, clean: Tensor, attacked: Tensor) -> dict[str, str]:
    """Writes a picture clean and attacked, uint8 [3, H, W]; its label and the names of the files."""
    pair = {"label": label}
    for kind, pixels in (("clean", clean), ("attacked", attacked)):
        pair[kind] = f"{i:02d}-{label.replace(' ', '-')}-{kind}.png"
        Image.fromarray(pixels.numpy().transpose(1, 2, 0)).save(out / pair[kind])
    return pair


def _indices(flags: Tensor) -> list[int]:
    """Where flags bool [N] are set."""
    return flags.nonzero().flatten().tolist()


def _attacked(classifier: DefendedClassifier, clean: Tensor, labels: Tensor) -> Tensor:
    """PGD on the undefended model, as 8-bit pictures: uint8 [N, 3, H, W]."""
    if len(clean) == 0:
        return clean
    x = clean.float() / 255
    return to_bytes(
        attack_in_chunks(undefended(classifier), x, labels, eps=ATTACK_EPS, seed=_SEED), x, ATTACK_EPS
    )


def main(
    out: Annotated[Path, typer.Option(help="Folder to write into.")],
    taken: Annotated[int, typer.Option("--pictures", min=1, help="Attacked, of each model.")] = 64,
    folder: Annotated[
        Path | None,
        typer.Option("--photographs", help="Class folders to show the model of photographs with."),
    ] = None,
) -> None:
    """Writes the page's models and pictures."""
    write_models(out, [drawn_shapes(taken), photographs(folder, taken)])


if __name__ == "__main__":
    typer.run(main)
