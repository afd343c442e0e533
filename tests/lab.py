"""Defence graphs, as exporters are given them, and what the files that they write must answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from towers import smooth

from clipfast import CounterattackConfig, DefendedClassifier
from clipfast.artifacts.ports import Port, ports, usual_outputs
from clipfast.encoders import make_encoder
from clipfast.exporters.defence_graph import DefenceGraph
from clipfast.models.tower import ImageTower
from clipfast.reference import counterattack
from clipfast.reference_stages import (
    answer_embedding,
    drift_of,
    gate_measure,
    into_bounds,
    passed_embedding,
)

_CLASSES = 11
_SCALE = 100.0
DRAWS = 128

# Settings beside a tower of its own for drift: each with what the other lacks.
DRIFT_TOWERS = {
    "momentum": {"pass_through": "noise", "momentum": 0.9, "step_size": 2 / 255},
    "l2": {"pass_through": "clean", "norm": "l2", "eps": 0.5, "step_size": 0.2},
}
# Choices of the three stages, each in one of them.
STAGES = {
    "agreement, towards, views": {
        "gate": "agreement", "transform": "blur", "objective": "towards", "pass_through": "clean",
        "views": ["identity", "mirror", "crop 0.9 top-left"], "view_weights": "agreement",
    },
    "high noise, no steps, views": {
        "gate": "high_noise_drift", "steps": 0, "views": ["gaussian 0.8", "crop 0.8 centre"],
    },
    "both pass, views seen": {
        "gate": "agreement", "transform": "gaussian 0.8 then crop 0.9 top-left", "pass_through": "both",
        "steps": 0, "views": ["identity", "gaussian 0.8 then crop 0.9 top-left", "mirror"],
    },
    "low-pass, momentum": {"gate": "agreement", "transform": "low_pass 5", "momentum": 0.9},
}  # fmt: skip

# Gates that read tokens after a block; the second lets images pass early.
DEPTHS = {
    "class tokens": {"gate": "agreement", "transform": "blur", "gate_depth": 1, "pass_through": "clean"},
    "mean tokens, then embeddings": {
        "gate": "agreement", "transform": "gaussian 0.8 then crop 0.9 top-left", "gate_depth": 1,
        "gate_tokens": "mean", "early_threshold": 0.5, "pass_through": "both", "objective": "towards",
    },
}  # fmt: skip

# What answers every picture, so that none is ever held back.
VIEWS_ALONE = {
    "gate": "none",
    "tau_threshold": 0.0,
    "pass_through": "views",
    "steps": 0,
    "views": ["blur", "gaussian 0.8 then crop 0.9 centre"],
}


def restless(model: nn.Module) -> nn.Module:
    """The same model, whose first convolution sees no patch's mean, so that it drifts under noise."""
    with torch.no_grad():
        weight = model.visual.conv1.weight
        weight.sub_(weight.mean(dim=(2, 3), keepdim=True)).mul_(8)
    return model


def with_one_early(config: CounterattackConfig, x: Tensor, tower: ImageTower) -> CounterattackConfig:
    """The settings, under which one image of x passes early if any may."""
    if config.early_threshold is None:
        return config
    read = replace(config, early_threshold=None, pass_through="clean")
    tokens = gate_measure(tower, x, x, x, read, partial(tower.gate_tokens, config=read)).sort().values
    return replace(config, early_threshold=float(tokens[-2:].mean()))


class Lab:
    """A tower's graph that takes noise and thresholds and gives every answer, and the reference beside it."""

    def __init__(
        self, model: nn.Module, *, drift_model: nn.Module | None = None, static: bool = False, **config
    ) -> None:
        self.config = CounterattackConfig(**config)
        self.tower = ImageTower(model).requires_grad_(False)
        self.config = with_one_early(self.config, smooth(4, self.tower.image_size), self.tower)
        self.drift_tower = None if drift_model is None else ImageTower(drift_model).requires_grad_(False)
        self.batch = 1 if static else None
        pixels = torch.rand(self.batch or 5, 3, *self.tower.image_size)
        width = self.tower(pixels).shape[1]
        self.class_weights = F.normalize(torch.randn(width, _CLASSES), dim=0)
        self.graph = DefenceGraph(
            make_encoder(self.tower, pack=False),
            self.config,
            self.class_weights,
            torch.tensor(_SCALE),
            drift_encoder=None if self.drift_tower is None else make_encoder(self.drift_tower, pack=False),
            outputs=usual_outputs("lab"),
            static=static,
            image_size=self.tower.image_size,
        ).eval()
        self.examples = (pixels, torch.zeros_like(pixels), torch.full((len(pixels),), torch.inf))
        self.inputs, self.outputs = ports(
            profile="lab",
            static=static,
            batch=self.batch,
            pixels="float32",
            image_size=self.tower.image_size,
            classes=_CLASSES,
        )

    @property
    def nbytes(self) -> int:
        """Of what a file must hold: the tower and the class weights."""
        visual = self.tower.model.visual
        return sum(t.nbytes for t in (*visual.parameters(), *visual.buffers(), self.class_weights))

    def check(self, program: Callable[..., Sequence[Tensor]], n: int, mix: str) -> None:
        """Runs n images of which none, some or all are countered."""
        x = smooth(n, self.tower.image_size)
        noise = (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) - 1) * self.config.eps
        if self.config.norm == "l2":
            noise = noise / noise.flatten(1).norm(dim=1)[:, None, None, None] * self.config.eps * 0.9
        tau = self._reference(x, noise, 0.0).drift.sort().values
        threshold = {"none": 0.0, "some": tau[: n // 2 + 1].mean().item(), "all": 1e9}[mix]
        expected = self._reference(x, noise, threshold)
        countered = expected.countered
        assert int(countered.sum()) in {"none": [0], "some": range(1, n), "all": [n]}[mix]
        with torch.no_grad():
            outputs = program(x, noise, torch.full((n,), threshold))
        logits, undefended, drift, gate, delta = outputs
        torch.testing.assert_close(drift, expected.drift, rtol=1e-5, atol=2e-6)
        assert torch.equal(gate, countered)
        flipped = ((delta - expected.delta).abs() > 1e-5).flatten(1).float().mean(dim=1)
        assert flipped.max() <= 1e-3, flipped
        wanted = self._logits(expected.embedding)
        # In pictures so small one flipped entry shows in the logits; they are still those of delta.
        same = flipped == 0
        # Steps of l2 have no sign that takes rounding away, so that delta differs a little everywhere.
        atol = 1e-3 if self.config.norm == "l2" else 2e-4
        torch.testing.assert_close(logits[same], wanted[same], rtol=0, atol=atol)
        answered = self.tower(x + delta)
        if self.config.views:
            seen = answer_embedding(self.tower, x + delta, self.config)
            answered = torch.where(countered[:, None], seen, answered)
        if self.config.pass_through == "both":
            early = self.config.passed_early(expected.drift)
            passed = passed_embedding(self.tower, x, self.config, early=early)
            answered = torch.where(countered[:, None], answered, passed)
        torch.testing.assert_close(logits, self._logits(answered), rtol=0, atol=2e-4)
        torch.testing.assert_close(undefended, self._logits(self.tower(x)), rtol=0, atol=2e-4)

    def _reference(self, x: Tensor, noise: Tensor, threshold: float):
        config = replace(self.config, tau_threshold=threshold)
        tokens = partial((self.drift_tower or self.tower).gate_tokens, config=config)
        return counterattack(self.tower, x, noise, config, drift_encode=self.drift_tower, tokens=tokens)

    def _logits(self, embedding: Tensor) -> Tensor:
        return _SCALE * F.normalize(embedding, dim=1) @ self.class_weights


def serving_graph(classifier: DefendedClassifier) -> DefenceGraph:
    """A classifier's graph that draws its noise itself."""
    return DefenceGraph(
        make_encoder(classifier.image_tower, pack=False),
        classifier.config,
        classifier.class_weights,
        classifier.logit_scale,
        drift_encoder=None,
        outputs=usual_outputs("serving"),
        static=False,
        image_size=classifier.image_size,
    ).eval()


def serving_ports(classifier: DefendedClassifier, batch: int | None) -> tuple[tuple[Port, ...], ...]:
    """The inputs and the outputs of a `serving_graph` of uint8 pixels."""
    return ports(
        profile="serving",
        static=False,
        batch=batch,
        pixels="uint8",
        image_size=classifier.image_size,
        classes=len(classifier.classnames),
    )


def check_draws(program: Callable[..., Sequence[Tensor]], classifier: DefendedClassifier) -> None:
    """Whether noise is drawn for each image and each run, and is as large as the reference's: by its drift.

    program: of `serving_graph`, for DRAWS images of uint8 pixels.
    """
    picture = (smooth(1, classifier.image_size) * 255).to(torch.uint8)
    pixels = picture.expand(DRAWS, -1, -1, -1).contiguous()
    x, eps = pixels / 255, classifier.config.eps
    noise = torch.empty_like(x).uniform_(-eps, eps)
    with torch.no_grad():
        drifts = torch.cat([program(pixels)[2] for _ in range(2)])
        tower = classifier.image_tower
        expected = drift_of(tower(x + into_bounds(noise, x)), tower(x))
    assert len(drifts.unique()) == 2 * DRAWS
    assert 0.85 < drifts.mean() / expected.mean() < 1.15
