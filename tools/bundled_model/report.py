"""Measures the finished model by PROTOCOL.md and writes report.json and MODEL_CARD.md."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from sklearn.metrics import roc_auc_score
from torch import Tensor

from clipfast import DefendedClassifier, __version__
from clipfast.evaluation.attacks import pgd
from clipfast.evaluation.baselines import blur, random_noise
from clipfast.evaluation.shapes import KINDS, UNSEEN_PAIRS, Pictures, draw
from clipfast.models.bundled import load_bundled, load_bundled_twin

from . import recipe
from .card import model_card

CHUNK = 100


def report(_run: Path, out: Path, device: torch.device) -> None:
    """Writes out/report.json and out/MODEL_CARD.md; prints progress."""
    original = load_bundled(device, folder=out)
    tuned = load_bundled_twin(original, folder=out)
    names, config = original.classnames, original.config
    ttc = DefendedClassifier(original.model, original.tokenizer, names, config=config)
    unseen = DefendedClassifier(
        original.model, original.tokenizer, names, config=config, templates=(recipe.UNSEEN_TEMPLATE,)
    )
    twin = DefendedClassifier(tuned, original.tokenizer, names, config=config, drift_model=original.model)
    pictures = report_pictures()
    labels = torch.from_numpy(pictures.labels)
    clean = torch.from_numpy(pictures.pixels).float() / 255

    def blurred(x: Tensor) -> Tensor:
        return ttc.undefended(blur(x).clamp(0, 1))

    def noisy(x: Tensor) -> Tensor:
        return ttc.undefended(random_noise(x, eps=config.eps, generator=torch.Generator().manual_seed(0)))

    def countered(classifier: DefendedClassifier) -> Callable[[Tensor], Tensor]:
        return lambda x: classifier.predict(x, seed=0).logits

    systems: dict[str, Callable[[Tensor], Tensor]] = {
        "undefended": ttc.undefended,
        "random noise": noisy,
        "3x3 blur": blurred,
        "twin": twin.undefended,
        "TTC": countered(ttc),
        "TTC on twin": countered(twin),
    }
    attackable = {
        "undefended": (ttc.undefended, 1),
        "random noise": (lambda x: ttc.undefended(random_noise(x, eps=config.eps)), recipe.EOT_SAMPLES),
        "3x3 blur": (blurred, 1),
        "twin": (twin.undefended, 1),
        "TTC": (ttc.differentiable("bpda"), recipe.EOT_SAMPLES),
        "TTC on twin": (twin.differentiable("bpda"), recipe.EOT_SAMPLES),
    }
    groups = groups_of(pictures)
    with Progress(*Progress.get_default_columns(), "{task.fields[note]}") as progress:
        chunks = math.ceil(len(labels) / CHUNK)
        passes = chunks * recipe.ADAPTIVE_STEPS * (len(recipe.REPORT_EPS) + len(attackable))
        task = progress.add_task("measuring", total=passes, note="")

        def attack(system: Callable[[Tensor], Tensor], eps: float, samples: int, note: str) -> Tensor:
            progress.update(task, note=note)
            parts = [
                pgd(
                    system,
                    clean[i : i + CHUNK],
                    labels[i : i + CHUNK],
                    eps=eps,
                    step_size=1 / 255,
                    steps=recipe.ADAPTIVE_STEPS,
                    samples=samples,
                    generator=torch.Generator().manual_seed(i),
                    progress=lambda: progress.advance(task),
                )
                for i in range(0, len(clean), CHUNK)
            ]
            return torch.cat(parts)

        transfer = {
            eps: attack(ttc.undefended, eps, 1, f"PGD-10 at {eps * 255:.0f}/255") for eps in recipe.REPORT_EPS
        }
        adaptive = {
            name: attack(system, recipe.ADAPTIVE_EPS, samples, f"adaptive: {name}")
            for name, (system, samples) in attackable.items()
        }
    accuracy: dict[str, Any] = {}
    for name, system in systems.items():
        accuracy[name] = {
            "clean": scores(system, clean, labels, groups),
            **{f"pgd10_{eps * 255:.0f}": scores(system, x, labels, groups) for eps, x in transfer.items()},
            f"adaptive_{recipe.ADAPTIVE_EPS * 255:.0f}": scores(system, adaptive[name], labels, groups),
        }
    drift = {
        "clean": drifts(ttc, clean),
        **{f"{eps * 255:.0f}": drifts(ttc, x) for eps, x in transfer.items()},
    }
    is_unseen = np.isin(
        pictures.shapes * 100 + pictures.colours, [shape * 100 + colour for shape, colour in UNSEEN_PAIRS]
    )
    result = {
        "clipfast": __version__,
        "torch": torch.__version__,
        "device": device.type,
        "pictures": len(labels),
        "config": json.loads(config.to_json()),
        "accuracy": accuracy,
        "unseen_pairs_clean": share(correct(ttc.undefended, clean, labels)[is_unseen]),
        "unseen_template_clean": share(correct(unseen.undefended, clean, labels)),
        "drift_median": {name: float(np.median(tau)) for name, tau in drift.items()},
        "countered": {name: float((tau < config.tau_threshold).mean()) for name, tau in drift.items()},
        "auroc": {
            name: {group: auroc(drift["clean"][rows], tau[rows]) for group, rows in groups.items()}
            for name, tau in drift.items()
            if name != "clean"
        },
    }
    (out / "report.json").write_text(json.dumps(result, indent=2) + "\n")
    (out / "MODEL_CARD.md").write_text(model_card(result, original.model))


def report_pictures() -> Pictures:
    """Equally many of every kind, each kind from its own seed."""
    each = recipe.REPORT_PICTURES // len(KINDS)
    parts = [
        draw(each, seed=(recipe.SEED_REPORT, index), kinds={kind: 1.0}, size=recipe.IMAGE_SIZE)
        for index, kind in enumerate(KINDS)
    ]
    return Pictures(
        *(
            np.concatenate([getattr(part, field) for part in parts])
            for field in ("pixels", "shapes", "colours", "kinds")
        )
    )


def groups_of(pictures: Pictures) -> dict[str, np.ndarray]:
    """Row masks: all pictures, and each kind."""
    everything = {"all": np.ones(len(pictures.kinds), bool)}
    return everything | {kind: pictures.kinds == index for index, kind in enumerate(KINDS)}


@torch.no_grad()
def correct(system: Callable[[Tensor], Tensor], x: Tensor, labels: Tensor) -> np.ndarray:
    """Which pictures a system gets right: bool [N]."""
    logits = torch.cat([system(x[i : i + CHUNK]).cpu() for i in range(0, len(x), CHUNK)])
    return (logits.argmax(1) == labels).numpy()


def scores(
    system: Callable[[Tensor], Tensor], x: Tensor, labels: Tensor, groups: dict[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Accuracy and its standard error for each group."""
    right = correct(system, x, labels)
    return {group: share(right[rows]) for group, rows in groups.items()}


def share(right: np.ndarray) -> dict[str, float]:
    """The mean of flags with its binomial standard error."""
    mean = float(right.mean())
    return {"mean": mean, "standard_error": math.sqrt(mean * (1 - mean) / len(right)), "n": len(right)}


def drifts(classifier: DefendedClassifier, x: Tensor) -> np.ndarray:
    """Drift of each picture: [N]."""
    parts = [classifier.predict(x[i : i + CHUNK], seed=0).drift for i in range(0, len(x), CHUNK)]
    return torch.cat(parts).cpu().numpy()


def auroc(clean: np.ndarray, attacked: np.ndarray) -> float:
    """How well low drift tells attacked from clean; 0.5 does not separate."""
    truth = np.concatenate([np.zeros(len(clean)), np.ones(len(attacked))])
    return float(roc_auc_score(truth, -np.concatenate([clean, attacked])))
