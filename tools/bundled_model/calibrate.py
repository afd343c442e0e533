"""Sets the threshold on clean pictures alone, by PROTOCOL.md's rule."""

from __future__ import annotations

from pathlib import Path

import torch

from clipfast import CounterattackConfig, DefendedClassifier
from clipfast.evaluation.shapes import draw
from clipfast.models.bundled import load_bundled
from clipfast.models.fingerprint import fingerprint

from . import recipe


def calibrate(_run: Path, out: Path, device: torch.device) -> None:
    """Writes out/counterattack.json, marked as calibrated for the model in `out`."""
    original = load_bundled(device, folder=out)
    weights = fingerprint(original.model.visual)
    everything, nothing = (
        DefendedClassifier(
            original.model,
            original.tokenizer,
            original.classnames,
            config=CounterattackConfig(tau_threshold=threshold).calibrated(weights),
        )
        for threshold in (1e9, 0.0)
    )
    pictures = draw(
        recipe.CALIBRATION_PICTURES,
        seed=recipe.SEED_CALIBRATE,
        kinds=recipe.TRAINING_KINDS,
        size=recipe.IMAGE_SIZE,
    )
    labels = torch.from_numpy(pictures.labels)
    correct: dict[str, list[torch.Tensor]] = {"countered": [], "passed": [], "undefended": []}
    drift = []
    for i in range(0, len(labels), 100):
        pixels, truth = torch.from_numpy(pictures.pixels[i : i + 100]), labels[i : i + 100]
        countered, passed = (c.predict(pixels, seed=i) for c in (everything, nothing))
        drift.append(countered.drift.cpu())
        for name, logits in (
            ("countered", countered.logits),
            ("passed", passed.logits),
            ("undefended", passed.undefended_logits),
        ):
            correct[name].append(logits.argmax(1).cpu() == truth)
    tau, scores = torch.cat(drift), {name: torch.cat(rows).double() for name, rows in correct.items()}
    least = scores["undefended"].mean() - recipe.MOST_CLEAN_LOSS
    chosen = 0.0
    for threshold in tau.quantile(torch.linspace(0, 1, 101)).tolist():
        accuracy = torch.where(tau < threshold, scores["countered"], scores["passed"]).mean()
        if accuracy >= least:
            chosen = threshold
    config = CounterattackConfig(tau_threshold=float(f"{chosen:.3g}")).calibrated(weights)
    (out / "counterattack.json").write_text(config.to_json() + "\n")
