"""Measures the finished model by PROTOCOL.md and writes report.json and MODEL_CARD.md."""

from __future__ import annotations

import copy
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from clipfast import DefendedClassifier, __version__
from clipfast.attacks.pgd10 import PGD_STEPS, attack_in_chunks, correct
from clipfast.attacks.system import System, undefended
from clipfast.calibration.separation import separation
from clipfast.evaluation.defences.systems import blurred, countered, noisy
from clipfast.files import write_text
from clipfast.measurement.interleave import interleaved
from clipfast.measurement.statistics import right_in_every_case, share
from clipfast.models.bundled import load_bundled
from clipfast.models.checkpoint import load_image_tower
from clipfast.models.shapes import KINDS, UNSEEN_PAIRS, Pictures, class_index, draw

from . import recipe
from .card import model_card

CHUNK = 100


def report(out: Path, device: torch.device) -> None:
    """Writes out/MODEL_CARD.md and out/report.json; shows progress."""
    torch.manual_seed(recipe.SEED_REPORT)
    original = load_bundled(out, device)
    names, config = original.classnames, original.config
    ttc = DefendedClassifier(original.model, original.tokenizer, names, config=config)
    template = (recipe.UNSEEN_TEMPLATE,)
    unseen = DefendedClassifier(original.model, original.tokenizer, names, config=config, templates=template)
    tuned = copy.deepcopy(original.model)
    load_image_tower(tuned.visual, out / "tecoa.pt")
    twin = DefendedClassifier(tuned, original.tokenizer, names, config=config, drift_model=original.model)
    systems = [
        undefended(ttc), noisy(ttc), blurred(ttc), countered(ttc),
        undefended(twin, "twin"), countered(twin, "TTC on the twin"),
    ]  # fmt: skip
    pictures = report_pictures()
    labels = torch.from_numpy(pictures.labels).to(device)
    clean = torch.from_numpy(pictures.pixels).to(device).float() / 255
    groups = {"all": np.ones(len(labels), bool)}
    groups |= {kind: pictures.kinds == index for index, kind in enumerate(KINDS)}
    with Progress() as progress:
        rounds = math.ceil(len(labels) / CHUNK) * PGD_STEPS
        task = progress.add_task("attacking", total=rounds * (len(recipe.REPORT_EPS) + len(systems)))

        def attack(system: System, eps: float) -> Tensor:
            return attack_in_chunks(
                system, clean, labels, eps=eps, chunk=CHUNK, progress=lambda: progress.advance(task)
            )

        transfer = {level(eps): attack(systems[0], eps) for eps in recipe.REPORT_EPS}
        against = [attack(system, recipe.ADAPTIVE_EPS) for system in systems]
    accuracy = {}
    for system, adapted in zip(systems, against, strict=True):
        tables = {"clean": clean, **{f"pgd10_{name}": x for name, x in transfer.items()}}
        right = {name: correct(system, x, labels) for name, x in tables.items()}
        name = level(recipe.ADAPTIVE_EPS)
        right[f"adaptive_{name}"] = correct(system, adapted, labels)
        cases = ("clean", f"pgd10_{name}", f"adaptive_{name}")
        right[f"worst_{name}"] = right_in_every_case(*(right[case] for case in cases))
        accuracy[system.name] = {
            name: {group: share(flags[rows])._asdict() for group, rows in groups.items()}
            for name, flags in right.items()
        }
    drift = {name: drifts(ttc, x) for name, x in {"clean": clean, **transfer}.items()}
    unseen_rows = np.isin(pictures.labels, [class_index(*map(np.int64, pair)) for pair in UNSEEN_PAIRS])
    result = {
        "clipfast": __version__,
        "torch": torch.__version__,
        "device": device.type,
        "pictures": len(labels),
        "config": json.loads(config.to_json()),
        "accuracy": accuracy,
        # Every 18th of the 1200 pictures, so that each kind has its share.
        "cost": costs(systems, clean[::18], transfer[level(recipe.ADAPTIVE_EPS)][::18]),
        "unseen_pairs_clean": share(correct(systems[0], clean, labels)[unseen_rows])._asdict(),
        "unseen_template_clean": share(correct(undefended(unseen), clean, labels))._asdict(),
        "drift_median": {name: float(np.median(tau)) for name, tau in drift.items()},
        "countered": {name: float((tau < config.tau_threshold).mean()) for name, tau in drift.items()},
        "auroc": {
            name: {group: separation(drift["clean"][rows], tau[rows]).auroc for group, rows in groups.items()}
            for name, tau in drift.items()
            if name != "clean"
        },
    }
    write_text(out / "MODEL_CARD.md", model_card(result, original.model))
    write_text(out / "report.json", json.dumps(result, indent=2) + "\n")  # last: whoever finds it finds both


def level(eps: float) -> str:
    """'2' for 2/255."""
    return f"{eps * 255:.0f}"


def report_pictures() -> Pictures:
    """Equally many of every kind, each kind from its own seed."""
    each = recipe.REPORT_PICTURES // len(KINDS)
    parts = [
        draw(each, seed=(recipe.SEED_REPORT, index), kinds={kind: 1.0}, size=recipe.IMAGE_SIZE)
        for index, kind in enumerate(KINDS)
    ]
    fields = ("pixels", "shapes", "colours", "kinds")
    return Pictures(*(np.concatenate([getattr(part, field) for part in parts]) for field in fields))


@torch.no_grad()
def costs(systems: list[System], clean: Tensor, attacked: Tensor) -> dict[str, dict[str, float]]:
    """Time over the undefended model's, on clean and on attacked pictures."""
    seconds = interleaved(
        [partial(system.logits, x) for system in systems for x in (clean, attacked)], repeats=7
    )
    return {
        system.name: {"clean": seconds[2 * i] / seconds[0], "attacked": seconds[2 * i + 1] / seconds[1]}
        for i, system in enumerate(systems)
    }


def drifts(classifier: DefendedClassifier, x: Tensor) -> np.ndarray:
    """Drift of each picture: [N]."""
    return torch.cat([classifier.predict(part, seed=0).drift.cpu() for part in x.split(CHUNK)]).numpy()
