"""The model card in words and tables, from the report's numbers alone."""

from __future__ import annotations

from typing import Any

from torch import nn

from clipfast.models.shapes import KINDS

from ..tables import percent, table

COLUMNS = {
    "clean": "clean",
    "pgd10_1": "PGD-10, 1/255",
    "pgd10_2": "PGD-10, 2/255",
    "pgd10_4": "PGD-10, 4/255",
    "adaptive_2": "adaptive, 2/255",
    "worst_2": "worst case, 2/255",
}


def accuracy_table(report: dict[str, Any], group: str = "all") -> str:
    """Systems down, attacks across, for one kind of picture."""
    rows = [
        [system, *(percent(scores[column][group]) for column in COLUMNS)]
        for system, scores in report["accuracy"].items()
    ]
    return table(["", *COLUMNS.values()], rows)


def model_card(report: dict[str, Any], model: nn.Module) -> str:
    """The whole card."""
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    each = report["accuracy"]["undefended"]["clean"][KINDS[0]]["n"]
    gate = [
        [kind, *(f"{report['auroc'][eps][kind]:.2f}" for eps in ("1", "2", "4"))] for kind in ("all", *KINDS)
    ]
    shares = [
        [
            name if name == "clean" else f"PGD-10, {name}/255",
            f"{report['drift_median'][name]:.4f}",
            f"{share:.1%}",
        ]
        for name, share in report["countered"].items()
    ]
    separates = report["auroc"]["2"]["all"] > 0.6
    finding = (
        "Attacked pictures drift less than clean ones, as the paper reports for real CLIP."
        if separates
        else "**The gate does not separate here**: attacked pictures do not drift less than clean ones. "
        "The gate then decides cost and clean accuracy, not who is countered."
    )
    cost = table(
        ["time over the undefended model's", "clean", "attacked, 2/255"],
        [
            [name, f"{over['clean']:.1f}x", f"{over['attacked']:.1f}x"]
            for name, over in report["cost"].items()
        ],
    )
    kinds = "\n\n".join(f"### {kind}\n\n{accuracy_table(report, kind)}" for kind in KINDS)
    return f"""# The bundled model

A CLIP of {size:.1f} M parameters (ViT, 96 px, patch 12, width 192, 4 layers; own word-level vocabulary), trained
from scratch on drawn coloured shapes, and a twin whose image tower was adversarially fine-tuned (TeCoA, PGD-2 at
2/255). Stored in float16. Made by `make bundled-model` under `tools/PROTOCOL.md`; licensed as clipfast is.

**It shows the mechanism and exercises the tooling. Its figures are no evidence about real CLIP.**

## Accuracy

Zero-shot over 120 classes, in percent with binomial standard errors, on {report["pictures"]} fresh pictures, {each} of
each kind. PGD-10: l-inf, step 1/255, random start, true labels, float32, made on the undefended model. Adaptive:
the same 10 steps against the system itself, at 2/255; for the randomised ones with gradients averaged over 4 draws,
for TTC with the counterattack held constant (BPDA). Ten steps without restarts: an **upper bound** on what an
adaptive attacker leaves. Worst case: right on the clean picture, under PGD-10 and under the adaptive attack. TTC: eps 4/255, 2 steps of 1/255, beta 2, threshold {report["config"]["tau_threshold"]:g}.

{accuracy_table(report)}

{cost}

Shape-colour pairs never trained on: {percent(report["unseen_pairs_clean"])} clean. Template never trained on:
{percent(report["unseen_template_clean"])} clean.

## The gate

AUROC of low drift as a sign of attack:

{table(["", "1/255", "2/255", "4/255"], gate)}

{table(["", "median drift", "countered"], shares)}

{finding}

## By kind of picture

{kinds}

## Limits

Randomised defences that optimise at inference are not certified, and this one falls further to stronger
adaptive attacks (more steps, restarts, unrolled gradients, gate evasion) than the table shows. The model knows 120
classes of drawings and a few dozen words; any other word is an error.
"""
