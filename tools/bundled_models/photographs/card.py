"""The model card in words and tables, from the report's numbers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from clipfast.evaluation.results import Results

from ..tables import percent, readme_table, table, transfer_table
from . import recipe

__all__ = ["RESULTS", "model_card", "under_attack"]

RESULTS = Path(__file__).parents[3] / "benchmarks/results/photographs"

_UNMEASURED = """Not measured on the reported pictures yet; until then nothing is claimed.
`bash benchmarks/photographs.sh ROOT OUT` measures it.
"""


def under_attack(folder: Path) -> str:
    """The section on attacks, of the evaluations that `benchmarks/photographs.sh` wrote, or that there are none."""
    files = [folder / f"{name}.json" for name in ("transfer", "full", "rest")]
    if not all(file.exists() for file in files):
        return _UNMEASURED
    transfer, *evaluations = (Results.from_json(file.read_text(encoding="utf-8")) for file in files)
    full, rest = (results.run["images"] for results in evaluations)
    return f"""Percent right of {transfer.run["images"]} test photographs under PGD-10 (ten steps of 1/255) on the undefended model, with 95 %
intervals. It does not know the defence:

{transfer_table(transfer)}

Of the first {full}, under the budget `full` at 2/255, with attacks on the system itself: worst case is right on the clean
picture, under PGD-10 and under every attack. Rows of TTC are of the first {rest}:

{readme_table(evaluations, "photographs")}
"""


def model_card(report: dict[str, Any], model: nn.Module) -> str:
    """The whole card."""
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    vision = recipe.MODEL_CFG["vision_cfg"]
    first, unseen = recipe.TRAINING_TEMPLATES[0], recipe.UNSEEN_TEMPLATE
    templates = [[first, percent(report["clean"])]]
    templates += [[template, percent(right)] for template, right in report["other_templates"].items()]
    templates += [[f"**{unseen}** (never trained on)", percent(report["unseen_template"])]]
    words = [
        [f"**{word}** (never trained on)" if word == recipe.UNSEEN_WORD else word, percent(right)]
        for level in report["words_above"]
        for word, right in level["of"].items()
    ]
    return f"""# The bundled model of photographs

A CLIP of {size:.1f} M parameters (ViT, {recipe.IMAGE_SIZE} px, patch {vision["patch_size"]}, width {vision["width"]}, {vision["layers"]} layers; own word-level vocabulary), trained from
scratch on the 50,000 training photographs of CIFAR-10. Stored in float16. Made by `make photo-model` under
`tools/PROTOCOL.md`; licensed as clipfast is. It comes without pictures: CIFAR-10 is not part of clipfast.

**It shows the mechanism on photographs of 32 pixels. Its figures are no evidence about real CLIP.**

## Accuracy

Zero-shot over CIFAR-10's ten classes, in percent with binomial standard errors, on the first {report["pictures"]} test
photographs in the order in which `clipfast eval` draws them:

{table(["template", "right"], templates)}

Of all {report["whole"]["pictures"]:,} test photographs {percent(report["whole"]["clean"])} in the first template.

Words above the classes, each among those of its level, in the template "{first}":

{table(["word", "right"], words)}

## Under attack

The recommended settings are the mean over seven views of every picture (itself, mirrored, and five crops of 0.9),
without a gate and a counterattack. The search of `benchmarks/pareto.py` chose them.

{under_attack(RESULTS)}
## Limits

The model knows ten classes, the words above them and their few synonyms; any other word is an error. A picture of
anything else gets one of the names that it was asked about.
"""
