"""The settings of the counterattack, in pixel units: pixels are in [0, 1], so one grey level is 1/255."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from .errors import InputError
from .transforms import parse_chain, written

__all__ = [
    "GATES",
    "PUBLISHED_FOR",
    "CounterattackConfig",
    "Gate",
    "GateFacts",
    "GateTokens",
    "Norm",
    "Objective",
    "PassThrough",
    "Preset",
    "ViewWeights",
]

# open_clip's names of the model and the weights for which the published threshold, 0.2, counts as
# calibrated: it was chosen on OpenAI's ViT-B/32.
PUBLISHED_FOR = {("ViT-B-32-quickgelu", "openai")}

Norm = Literal["linf", "l2"]
PassThrough = Literal["noise", "clean", "both", "views"]
Gate = Literal["drift", "high_noise_drift", "agreement", "none"]
GateTokens = Literal["class", "mean"]
Objective = Literal["away", "towards"]
ViewWeights = Literal["equal", "agreement"]
Preset = Literal["published", "recommended"]


class GateFacts(NamedTuple):
    """Facts about a gate that code outside of the gate itself needs.

    Attributes:
        measures: The name of what the gate measures.
        measured_with: Gives the settings that the measure depends on, as text for the mark of a
            calibration.
        reads_probe: Whether the gate reads f(x) and f(x + d0) alone, which the counterattack starts from.
        draws: Whether the measure depends on the noise.
        cosine: Whether the measure is a cosine, and so at most 1.
    """

    measures: str
    measured_with: Callable[[CounterattackConfig], str]
    reads_probe: bool = False
    draws: bool = True
    cosine: bool = False


# Each gate's measure is low for attacked images. The measures are computed in `clipfast.reference_stages`
# and `clipfast.defence.gates`.
GATES: dict[Gate, GateFacts] = {
    "drift": GateFacts("drift", lambda config: f"{config.norm} {config.eps!r}", reads_probe=True),
    "high_noise_drift": GateFacts(
        "steadiness", lambda config: f"high noise {config.norm} {config.gate_noise!r}"
    ),
    "agreement": GateFacts(
        "agreement", lambda config: config.transform + _depth_of(config), draws=False, cosine=True
    ),
    "none": GateFacts("nothing", lambda _: "", draws=False),
}


@dataclass(frozen=True, kw_only=True)
class CounterattackConfig:
    """Settings of a defence's three stages; the defaults are TTC's (arXiv 2503.03613, section 3).

    A gate chooses the images that are countered. A counterattack adds a counter-perturbation delta to
    them. They are answered from f(x + delta), or from several views of x + delta. All other images pass
    the gate, and are answered as `pass_through` says. Here f is the image tower, x an image, d0 the
    noise, and t(x) the image under `transform`.

    Attributes:
        eps: Budget of the counter-perturbation, in [0, 1] pixel units (l-inf: per pixel; l2: per image).
            Positive; in l-inf at most 1.
        step_size: Length of one ascent step, in the units and range of `eps`.
        steps: Number of ascent steps, from 0 to 1000. With 0 a countered image is moved as one that
            passes: by the noise if `pass_through` is "noise", else not at all.
        beta: How steeply the weights exp(beta k) of the steps k = 0..steps rise. beta times steps is from
            -80 to 80.
        tau_threshold: Images whose measure (see `gate`) is strictly below it are countered. At least 0,
            which passes every image of the gate "drift".
        norm: "linf" or "l2".
        pass_through: What an image that passes the gate is answered from. "noise": x + d0, as published.
            "clean": x itself, so that the answer is exactly undefended CLIP's. "both": the mean of the
            normalised f(x) and f(t(x)), which the gate "agreement" compared. "views": the views of x,
            with the gate "none" alone.
        calibrated_for: The mark that `calibrated` sets; None if the threshold was not calibrated. A
            threshold does not carry over to another model or gate, nor to other settings that the gate
            measures with: the size and norm of its noise, or its transform.
        momentum: Momentum of Nesterov steps (NAC uses 0.9), at least 0 and below 1; 0 is TTC. From v_0 =
            0, step k takes its gradient g at d_(k-1) + momentum v_(k-1). Then v_k = momentum v_(k-1) +
            step_size sign(g), and d_k is d_(k-1) + v_k within the budget and the bounds of pixels. In l2,
            step_size g / (||g|| + 1e-10) replaces step_size sign(g). The point where the gradient is
            taken may lie outside of budget and bounds.
        gate: What is measured of each image; results call it drift, whatever the gate. "drift" is the
            published tau = ||f(x + d0) - f(x)|| / ||f(x)||, which is low for attacked images.
            "high_noise_drift" (arXiv 2606.03730) is 1 / (1 + tau) at noise of the size `gate_noise`,
            where tau is high for attacked images. "agreement" is cos(f(x), f(t(x))), low for attacked
            images; with a low-pass filter of radius 40 as t and the threshold 0.85 it is CSR's (arXiv
            2601.19210). "none" measures nothing: drift is 0 for every image, with the threshold 0 all of
            them pass, and there is nothing to calibrate and no gate to evade. Every gate but "none" costs
            2 forward passes. These include what a passing image is answered from, except for pass_through
            "noise" with a gate other than "drift". Those of the gate "drift" include the counterattack's
            first pass, too. (All of this with no separate model for the gate.)
        gate_noise: Size of the noise of the gate "high_noise_drift", in the units and range of `eps`: d0
            is scaled by gate_noise / eps.
        gate_depth: The block of a vision transformer, counted from 1, after which the gate "agreement"
            compares tokens in place of embeddings. t(x) then costs only that share of a forward pass.
            None compares embeddings.
        gate_tokens: The tokens that are compared: the "class" token, or the "mean" of the patches' tokens.
        early_threshold: From 0.01 to 1, with `gate_depth` alone: puts two gates in a row. An image whose
            tokens agree at least as much passes early and is answered from f(x). All others are measured
            by their embeddings, against `tau_threshold`. The drift of an image that passes early is 1 plus
            the agreement of its tokens. None: every image is measured by its tokens.
        transform: t, as text (see `clipfast.transforms`). The gate "agreement" compares with t(x), and
            the objective "towards" ascends towards it.
        objective: What the counterattack ascends. "away", as published: ||f(x + d) - f(x)||^2. "towards"
            (CSR): cos(f(x + d), f(t(x))) - cos(f(x + d), f(x)).
        views: Transforms of x + delta, at most 64. The mean of their normalised embeddings answers a
            countered image in place of f(x + delta). None as published. Each costs a forward pass, unless
            nothing is added to the image and its embedding is known already.
        view_weights: Weights of that mean: "equal", or "agreement", exp(10 cos) of each view's embedding
            and the equal mean.

    Raises:
        InputError: If a value is outside of its range or not finite in float32; if a transform is
            unknown, or changes nothing ("identity") although the gate or the objective uses it; for
            objective "towards" without steps; for pass_through "both" unless the gate compares embeddings;
            for pass_through "views" without gate "none" or without views; for view_weights "agreement"
            with fewer than 3 views; for a gate_depth with another gate than "agreement"; for an
            early_threshold without gate_depth.
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
    gate_noise: float = 16 / 255
    gate_depth: int | None = None
    gate_tokens: GateTokens = "class"
    early_threshold: float | None = None
    transform: str = "blur"
    objective: Objective = "away"
    views: tuple[str, ...] = ()
    view_weights: ViewWeights = "equal"

    def __post_init__(self) -> None:
        for name in ("eps", "step_size", "beta", "tau_threshold", "momentum", "gate_noise"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise InputError(f"{name} must be a number, got {value!r}")
            if not -_LARGEST <= value <= _LARGEST:  # NaN compares false
                raise InputError(f"{name} must be finite in float32, got {value!r:.60}")
            object.__setattr__(self, name, float(value))
        if (
            isinstance(self.steps, bool)
            or not isinstance(self.steps, int)
            or not 0 <= self.steps <= _MOST_STEPS
        ):
            raise InputError(f"steps must be an integer from 0 to {_MOST_STEPS}, got {self.steps!r:.60}")
        if abs(self.beta) * self.steps > _STEEPEST:
            raise InputError(
                f"beta times steps must be from -{_STEEPEST} to {_STEEPEST}, so that the steps' weights are "
                f"numbers; got {self.beta!r} times {self.steps}"
            )
        for name, known in _CHOICES.items():
            if getattr(self, name) not in get_args(known):
                raise InputError(f"{name} must be one of {get_args(known)}, got {getattr(self, name)!r}")
        if not isinstance(self.calibrated_for, (str, type(None))):
            raise InputError(f"calibrated_for must be a string or None, got {self.calibrated_for!r}")
        for name in ("eps", "step_size", "gate_noise"):
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
        self._check_depth()
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum must be at least 0 and below 1, got {self.momentum!r}")
        self._check_transforms()

    def _check_depth(self) -> None:
        depth, early = self.gate_depth, self.early_threshold
        if depth is None:
            if early is not None:
                raise InputError(f"expected a gate_depth with early_threshold {early!r}, got None")
            return
        if isinstance(depth, bool) or not isinstance(depth, int) or not 1 <= depth <= _MOST_BLOCKS:
            raise InputError(f"gate_depth must be an integer from 1 to {_MOST_BLOCKS}, got {depth!r:.60}")
        if self.gate != "agreement":
            raise InputError(f"expected gate 'agreement' with a gate_depth, got {self.gate!r}")
        if early is None:
            return
        if isinstance(early, bool) or not isinstance(early, (int, float)) or not 0.01 <= early <= 1:
            raise InputError(f"early_threshold must be a number from 0.01 to 1, got {early!r:.60}")
        object.__setattr__(self, "early_threshold", float(early))

    def _check_transforms(self) -> None:
        object.__setattr__(self, "transform", written(parse_chain(self.transform)))
        if isinstance(self.views, str) or not isinstance(self.views, Sequence):
            raise InputError(f"views must be a sequence of transforms, got {self.views!r}")
        if len(self.views) > _MOST_VIEWS:
            raise InputError(f"expected at most {_MOST_VIEWS} views, got {len(self.views)}")
        object.__setattr__(self, "views", tuple(written(parse_chain(view)) for view in self.views))
        if self.transform == "identity" and self._uses_transform:
            raise InputError(
                f"expected a transform that changes the picture with gate {self.gate!r} and objective "
                f"{self.objective!r}, got {self.transform!r}"
            )
        if self.objective == "towards" and not self.steps:
            raise InputError("expected objective 'away' with steps=0, got 'towards': nothing ascends")
        if self.pass_through == "both" and not self.gate_embeds_transformed:
            depth = "" if self.gate_depth is None else f" after block {self.gate_depth}"
            raise InputError(
                f"expected gate 'agreement' with pass_through 'both', got {self.gate!r}{depth}: it compares "
                "no two embeddings that an answer is made of"
            )
        if self.pass_through == "views" and (self.gate != "none" or not self.views):
            raise InputError(
                f"expected gate 'none' and views with pass_through 'views', got {self.gate!r} and "
                f"{self.views!r}"
            )
        if self.view_weights == "agreement" and len(self.views) < 3:
            raise InputError(
                f"expected at least 3 views with view_weights 'agreement', got {len(self.views)}: two agree "
                "with their mean alike"
            )

    @classmethod
    def published(cls) -> CounterattackConfig:
        """Returns the settings of the paper's main tables (l-inf; ViT-B/32)."""
        return cls()

    @classmethod
    def recommended(cls) -> CounterattackConfig:
        """Returns the settings that `benchmarks/pareto.py` chose: two soft crops of every picture.

        They were chosen on the bundled model.
        """
        return cls(
            gate="none",
            tau_threshold=0.0,
            pass_through="views",
            steps=0,
            views=tuple(f"gaussian 2.0 then crop 0.9 {place}" for place in ("centre", "top-left")),
        )

    @classmethod
    def of(cls, preset: Preset) -> CounterattackConfig:
        """Returns `published` or `recommended`, by its name.

        Raises:
            InputError: If there is no preset of that name.
        """
        if preset not in get_args(Preset):
            raise InputError(f"expected a preset of {', '.join(get_args(Preset))}, got {preset!r}")
        return cls.published() if preset == "published" else cls.recommended()

    def ungated(self) -> CounterattackConfig:
        """Returns the same settings with a threshold that no image reaches, so that all are countered.

        The threshold is 1e9, and no image passes early. The result is not marked as calibrated.
        """
        depth = self.gate_depth if self.early_threshold is None else None
        return dataclasses.replace(
            self, tau_threshold=1e9, calibrated_for=None, gate_depth=depth, early_threshold=None
        )

    @property
    def moves(self) -> bool:
        """Whether anything is added to a countered image before it is answered."""
        return self.steps > 0 or self.pass_through == "noise"

    @property
    def is_fixed(self) -> bool:
        """Whether every image is answered in one way and unchanged, so that the gradient is exact."""
        return self.gate == "none" and self.tau_threshold == 0 and self.pass_through != "noise"

    @property
    def gate_embeds_transformed(self) -> bool:
        """Whether the gate makes f(t(x)), of images that do not pass early."""
        return self.gate == "agreement" and (self.gate_depth is None or self.early_threshold is not None)

    @property
    def passes_by_several(self) -> bool:
        """Whether an image that passes is answered by the mean of several embeddings."""
        return self.pass_through in ("both", "views")

    @property
    def answers_both_ways_from_clean(self) -> bool:
        """Whether f(x) is part of a passing image's answer, and is known of a countered image, too."""
        return self.pass_through == "both" or (self.pass_through == "views" and "identity" in self.views)

    def passed_early(self, drift: Any) -> Any:
        """Tells which images passed early, bool [N], from their drift [N], of numpy or torch."""
        # All other measures of such a gate are cosines, at most 1 but for rounding.
        return drift > (math.inf if self.early_threshold is None else 1 + self.early_threshold / 2)

    def transforms(self) -> tuple[str, ...]:
        """Returns the names of the transforms that the defence makes, each once."""
        names = (self.transform,) if self._uses_transform else ()
        return tuple(dict.fromkeys((*names, *self.views)))

    @property
    def _uses_transform(self) -> bool:
        return self.gate == "agreement" or self.objective == "towards"

    def calibrated(self, weights: str) -> CounterattackConfig:
        """Returns the same settings, marked as calibrated for a model.

        Args:
            weights: The fingerprint of the image tower that the gate measures with
                (`clipfast.models.fingerprint`).
        """
        return dataclasses.replace(self, calibrated_for=self._mark(weights))

    def is_calibrated(self, weights: str) -> bool:
        """Returns whether the threshold was calibrated for a model and for what this gate measures with.

        The gate "none" has nothing to calibrate, and counts as calibrated.

        Args:
            weights: The fingerprint of the image tower that the gate measures with
                (`clipfast.models.fingerprint`).
        """
        return self.gate == "none" or self.calibrated_for == self._mark(weights)

    def is_ttc(self) -> bool:
        """Returns whether gate, counterattack and answer are of the published kind, with any numbers."""
        return self.gate == "drift" and self.objective == "away" and not self.views

    def is_randomised(self) -> bool:
        """Returns whether an answer depends on the noise."""
        return self.moves or GATES[self.gate].draws

    def gates_as_published(self) -> bool:
        """Returns whether the gate, its threshold, eps and norm are those of `published`."""
        names, published = ("gate", "tau_threshold", "eps", "norm"), type(self).published()
        return all(getattr(self, name) == getattr(published, name) for name in names)

    def _mark(self, weights: str) -> str:
        import hashlib  # here, because it takes a sixth of the time of `import clipfast`

        what = f"{weights} {GATES[self.gate].measured_with(self)} {self.tau_threshold!r}"
        return hashlib.sha256(what.encode()).hexdigest()

    def to_json(self) -> str:
        """Returns the settings as a JSON object, of which `from_json` makes an equal config."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> CounterattackConfig:
        """Reads what `to_json` wrote.

        Raises:
            InputError: If the text is not a JSON object, or for settings that `from_settings` refuses.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"expected a counterattack config as JSON: {error}") from error
        if not isinstance(values, dict):
            raise InputError(f"expected a JSON object of settings, got {type(values).__name__}")
        return cls.from_settings(values)

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> CounterattackConfig:
        """Makes a config of settings by their names, those of older versions included.

        Args:
            settings: Values by the names of this class's attributes. The older gate "low_pass" becomes
                "agreement" with a low-pass filter of the older setting "radius" (by default 40).

        Raises:
            InputError: If a name is unknown, or the class refuses a value.
        """
        values = dict(settings)
        # Older versions named CSR's gate "low_pass", and its filter's radius by a setting of its own.
        radius = values.pop("radius", 40.0)
        if values.get("gate") == "low_pass":
            values |= {"gate": "agreement", "transform": f"low_pass {radius!r}"}
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise InputError(f"unknown settings {unknown}; known: {sorted(known)}")
        return cls(**values)


def _depth_of(config: CounterattackConfig) -> str:
    """What an agreement depends on beside its transform."""
    if config.gate_depth is None:
        return ""
    tokens = f", {config.gate_tokens} tokens after block {config.gate_depth}"
    return tokens if config.early_threshold is None else f"{tokens} at {config.early_threshold!r} first"


# Limits far beyond useful settings, yet small enough to compute with.
_LARGEST, _MOST_STEPS, _STEEPEST, _MOST_VIEWS, _MOST_BLOCKS = 3.4e38, 1000, 80, 64, 1000

_CHOICES = {
    "norm": Norm,
    "pass_through": PassThrough,
    "gate": Gate,
    "gate_tokens": GateTokens,
    "objective": Objective,
    "view_weights": ViewWeights,
}
