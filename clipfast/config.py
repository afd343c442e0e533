"""The settings of the counterattack, in pixel units: images are in [0, 1], so one grey level is 1/255."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from .errors import InputError

__all__ = ["GATES", "CounterattackConfig", "Gate", "GateFacts", "Norm", "PassThrough"]

Norm = Literal["linf", "l2"]
PassThrough = Literal["noise", "clean"]
Gate = Literal["drift", "low_pass"]


class GateFacts(NamedTuple):
    """What everyone but the algorithm has to know of a gate.

    measured_with: the settings that its measure depends on, in the words of a mark of calibration.
    reads_probe: whether f(x) and f(x + d0), which the counterattack begins with, are all that it reads.
    not_exported: why no format has it; None where all do.
    """

    measured_with: Callable[[CounterattackConfig], str]
    reads_probe: bool
    not_exported: str | None = None


# How each measures: `clipfast.reference`, and `clipfast.defence.gates`.
GATES: dict[Gate, GateFacts] = {
    "drift": GateFacts(lambda config: f"{config.norm} {config.eps!r}", reads_probe=True),
    "low_pass": GateFacts(
        lambda config: f"low_pass {config.radius!r}",
        reads_probe=False,
        not_exported="its Fourier transform is no operator that every format has",
    ),
}


@dataclass(frozen=True, kw_only=True)
class CounterattackConfig:
    """Settings of the test-time counterattack (TTC, arXiv 2503.03613, section 3; its defaults).

    eps: budget of the counter-perturbation, in [0, 1] pixel units (l-inf: per pixel; l2: per image).
    step_size: length of one ascent step, in the same units.
    steps: number of ascent steps, at least 1.
    beta: how steeply the weights exp(beta k) of the steps k = 0..steps rise.
    tau_threshold: images whose drift, as `gate` measures it, is strictly below it are countered; 0 passes
        every image of the gate "drift".
    norm: "linf" or "l2".
    pass_through: what an image that passes the gate is classified from: "noise", x + d0 as published,
        or "clean", x itself, so that its answer is exactly undefended CLIP's.
    calibrated_for: set by `calibrated`; None for a threshold that was not calibrated. A threshold does not
        carry over to another model or gate, nor to another eps or norm of the noise that drift is measured
        with, or radius of the low-pass gate.
    momentum: of Nesterov steps (NAC, with 0.9): at least 0 and below 1; 0 is TTC. From v_0 = 0, step k takes
        its gradient g at d_(k-1) + momentum v_(k-1), v_k = momentum v_(k-1) + step_size sign(g), and d_k is
        d_(k-1) + v_k within the budget and the bounds of pixels. The point ahead is held to neither: nothing
        but a gradient is taken there. In l2, step_size g / (||g|| + 1e-10) stands for the sign step.
    gate: "drift" as published, ||f(x + d0) - f(x)|| / ||f(x)||; or "low_pass", as in CSR (arXiv 2601.19210;
        its threshold is 0.85): cos(f(x), f(low-pass x)), which too is low of attacked images, and stands
        wherever drift is spoken of. It needs no noise: an image that passes costs two forward passes with
        pass_through "clean" and a third with "noise", and a countered one a pass more than by drift.
    radius: of the low-pass filter: frequencies of more cycles a picture are cut off.

    Raises InputError for values outside these ranges.
    """

    eps: float = 4 / 255
    step_size: float = 1 / 255
    steps: int = 2
    beta: float = 2.0
    tau_threshold: float = 0.2
    norm: Norm = "linf"
    pass_through: PassThrough = "noise"
    calibrated_for: str | None = None
    momentum: float = 0.0
    gate: Gate = "drift"
    radius: float = 40.0

    def __post_init__(self) -> None:
        for name in ("eps", "step_size", "beta", "tau_threshold", "momentum", "radius"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise InputError(f"{name} must be a number, got {value!r}")
            if not math.isfinite(value):
                raise InputError(f"{name} must be finite, got {value!r}")
            object.__setattr__(self, name, float(value))
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise InputError(f"steps must be an integer of at least 1, got {self.steps!r}")
        for name, known in (("norm", Norm), ("pass_through", PassThrough), ("gate", Gate)):
            if getattr(self, name) not in get_args(known):
                raise InputError(f"{name} must be one of {get_args(known)}, got {getattr(self, name)!r}")
        if not isinstance(self.calibrated_for, (str, type(None))):
            raise InputError(f"calibrated_for must be a string or None, got {self.calibrated_for!r}")
        for name in ("eps", "step_size"):
            value = getattr(self, name)
            if value <= 0:
                raise InputError(f"{name} must be positive, got {value!r}")
            if self.norm == "linf" and value > 1:
                raise InputError(
                    f"{name} is in [0, 1] pixel units and must be at most 1, got {value!r}; "
                    f"did you mean {value:g}/255?"
                )
        if self.tau_threshold < 0:
            raise InputError(f"tau_threshold must not be negative, got {self.tau_threshold!r}")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum must be at least 0 and below 1, got {self.momentum!r}")
        if self.radius <= 0:
            raise InputError(f"radius must be positive, got {self.radius!r}")

    @classmethod
    def published(cls) -> CounterattackConfig:
        """The settings of the paper's main tables (l-inf; ViT-B/32)."""
        return cls()

    @classmethod
    def serving(cls) -> CounterattackConfig:
        """As published, but images that pass the gate are answered exactly as undefended CLIP does."""
        return cls(pass_through="clean")

    def calibrated(self, weights: str) -> CounterattackConfig:
        """The same settings, marked as calibrated for a model.

        weights: the fingerprint of the image tower that the gate measures by (`clipfast.models.fingerprint`).
        """
        return dataclasses.replace(self, calibrated_for=self._mark(weights))

    def is_calibrated(self, weights: str) -> bool:
        """Whether tau_threshold was calibrated for these weights and this gate's settings."""
        return self.calibrated_for == self._mark(weights)

    def gates_as_published(self) -> bool:
        """Whether gate and threshold are those of `published`, with all that drift is measured with."""
        names, published = ("gate", "tau_threshold", "eps", "norm"), type(self).published()
        return all(getattr(self, name) == getattr(published, name) for name in names)

    def _mark(self, weights: str) -> str:
        what = f"{weights} {GATES[self.gate].measured_with(self)} {self.tau_threshold!r}"
        return hashlib.sha256(what.encode()).hexdigest()

    def to_json(self) -> str:
        """The settings as a JSON object; `from_json` gives an equal config back."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> CounterattackConfig:
        """Reads what `to_json` wrote. Raises InputError for anything else."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"expected a counterattack config as JSON: {error}") from error
        if not isinstance(values, dict):
            raise InputError(f"expected a JSON object of settings, got {type(values).__name__}")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise InputError(f"unknown settings {unknown}; known: {sorted(known)}")
        return cls(**values)
