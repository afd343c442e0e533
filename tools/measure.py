"""Fills the README's accuracy row for a real CLIP, on your weights and a folder of labelled images.

    python tools/measure.py FOLDER --model ViT-B-32-quickgelu --pretrained openai

FOLDER holds one folder of images for each class, named as the class.
"""

from __future__ import annotations

import json
import math
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import Progress
from torchvision.datasets import ImageFolder

from clipfast import CounterattackConfig, DefendedClassifier, InputError
from clipfast.evaluation.measure import PGD_STEPS, attack_in_chunks, correct
from clipfast.evaluation.statistics import share, worst_case
from clipfast.evaluation.systems import blurred, countered, noisy, undefended


def main(
    folder: Annotated[str, typer.Argument(help="One folder of images for each class.")],
    model: Annotated[str, typer.Option(help="open_clip model name.")] = "ViT-B-32-quickgelu",
    pretrained: Annotated[str, typer.Option(help="open_clip tag or a local file.")] = "openai",
    images: Annotated[int, typer.Option(min=1, help="How many images, drawn at random.")] = 1000,
    eps: Annotated[float, typer.Option(help="l-inf budget in grey levels.")] = 1.0,
    threshold: Annotated[float, typer.Option(help="tau_threshold; 0.2 is published for this model.")] = 0.2,
    chunk: Annotated[int, typer.Option(min=1, help="Images attacked at a time.")] = 50,
    device: Annotated[str, typer.Option()] = "cpu",
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Prints one JSON object: clean, PGD-10, adaptive (BPDA + EOT) and worst-case accuracy of each system."""
    torch.manual_seed(seed)
    try:
        data = ImageFolder(folder)
    except FileNotFoundError as error:
        raise InputError(f"expected a folder with one folder of images for each class: {error}") from error
    names = [name.replace("_", " ") for name in data.classes]
    config = CounterattackConfig(tau_threshold=threshold)
    classifier = DefendedClassifier.from_open_clip(model, pretrained, names, device=device, config=config)
    chosen = torch.randperm(len(data))[:images].tolist()
    paths, targets = zip(*(data.samples[i] for i in chosen), strict=True)
    clean = torch.from_numpy(classifier.preprocess.batch(paths)).to(device).float() / 255
    labels = torch.tensor(targets, device=device)
    systems = [
        undefended(classifier),
        noisy(classifier),
        blurred(classifier),
        countered(classifier),
    ]
    with Progress(console=Console(stderr=True)) as progress:
        rounds = math.ceil(len(clean) / chunk) * PGD_STEPS
        task = progress.add_task("attacking", total=rounds * len(systems))
        against = [
            attack_in_chunks(
                system, clean, labels, eps=eps / 255, chunk=chunk, progress=lambda: progress.advance(task)
            )
            for system in systems
        ]
    result = {
        "model": model,
        "pretrained": pretrained,
        "eps": f"{eps:g}/255",
        "threshold": threshold,
        "seed": seed,
    }
    for system, adapted in zip(systems, against, strict=True):
        right = {
            name: correct(system, x, labels, chunk=chunk, seed=seed)
            for name, x in (("clean", clean), ("pgd10", against[0]), ("adaptive", adapted))
        }
        right["worst"] = worst_case(*right.values())
        result[system.name] = {name: share(flags)._asdict() for name, flags in right.items()}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        raise SystemExit(f"error: {error}") from error
