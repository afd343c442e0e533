"""The settings of the counterattack, in pixel units: images are in [0, 1], so one grey level is 1/255."""

from __future__ import annotations

import dataclasses
import json
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

# The published threshold, 0.2, was chosen for OpenAI's ViT-B/32 and counts as calibrated there only:
# open_clip's names of model and weights.
PUBLISHED_FOR = {("ViT-B-32-quickgelu", "openai")}

Norm = Literal["linf", "l2"]
PassThrough = Literal["noise", "clean", "both", "views"]
Gate = Literal["drift", "high_noise_drift", "agreement", "none"]
GateTokens = Literal["class", "mean"]
Objective = Literal["away", "towards"]
ViewWeights = Literal["equal", "agreement"]
Preset = Literal["published", "recommended"]


class GateFacts(NamedTuple):
    """What everyone but the algorithm has to know of a gate.

    measures: what its measure is called. measured_with: the settings that the measure depends on, in the
    words of a mark of calibration.
    reads_probe: whether f(x) and f(x + d0), which the counterattack begins with, are all that it reads.
    draws: whether its measure depends on the noise. cosine: whether the measure is one, and so at most 1.
    """

    measures: str
    measured_with: Callable[[CounterattackConfig], str]
    reads_probe: bool = False
    draws: bool = True
    cosine: bool = False


# What each measures is low of attacked images. How: `clipfast.reference_stages` and `clipfast.defence.gates`.
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

    A gate chooses the images that are countered, a counterattack moves them, and their answer is f of the
    result, or of several views of it. All other images are answered as `pass_through` says.

    eps: budget of the counter-perturbation, in [0, 1] pixel units (l-inf: per pixel; l2: per image).
    step_size: length of one ascent step, in the same units.
    steps: number of ascent steps, at least 0. With 0 a countered image is moved as one that passes: not at
        all, or by the noise.
    beta: how steeply the weights exp(beta k) of the steps k = 0..steps rise.
    tau_threshold: images whose measure, by `gate`, is strictly below it are countered; 0 passes
        every image of the gate "drift".
    norm: "linf" or "l2".
    pass_through: what an image that passes the gate is classified from: "noise", x + d0 as published;
        "clean", x itself, so that its answer is exactly undefended CLIP's; "both", the mean of the normalised
        f(x) and f(t(x)), which the gate "agreement" compared; or "views", the views of x, which the gate
        "none" leaves to answer whatever comes.
    calibrated_for: set by `calibrated`; None for a threshold that was not calibrated. A threshold does not
        carry over to another model or gate, nor to another size or norm of the noise that drift is measured
        with, or transform.
    momentum: of Nesterov steps (NAC, with 0.9): at least 0 and below 1; 0 is TTC. From v_0 = 0, step k takes
        its gradient g at d_(k-1) + momentum v_(k-1), v_k = momentum v_(k-1) + step_size sign(g), and d_k is
        d_(k-1) + v_k within the budget and the bounds of pixels. The point ahead is held to neither: nothing
        but a gradient is taken there. In l2, step_size g / (||g|| + 1e-10) stands for the sign step.
    gate: what is measured, and called drift wherever a result has it. "drift" as published: tau = ||f(x + d0)
        - f(x)|| / ||f(x)||, low of attacked images. "high_noise_drift" (arXiv 2606.03730): at noise of the
        size gate_noise tau is high of them, so that 1 / (1 + tau) is measured. "agreement": cos(f(x),
        f(t(x))), low of them; with t a low-pass filter of radius 40 and the threshold 0.85 it is CSR's (arXiv
        2601.19210). "none": nothing, so that drift is 0 of every image, and with the threshold 0 all of them
        pass; there is nothing to calibrate, and no gate to evade. All others cost 2 forward passes; what an
        image that passes is answered from is among them but for pass_through "noise" with another gate than
        "drift", and so is the counterattack's first pass of the gate "drift" alone.
    gate_noise: of "high_noise_drift": the size of its noise, in eps's units; d0 made as much larger.
    gate_depth: of "agreement": the block of a vision transformer, counted from 1, after which the gate reads
        tokens in place of embeddings; t(x) then costs that share of a forward pass. None: the embeddings.
    gate_tokens: which those are: the "class" token, or the "mean" of the patches' tokens.
    early_threshold: with gate_depth, two gates in a row. An image whose tokens agree at least as much passes
        early and is answered from f(x); all others are measured by their embeddings, against tau_threshold.
        The drift of one that passes early is 1 plus that agreement, so that it is at least 1.
    transform: t, see `clipfast.transforms`; an agreement gate compares with it, and an ascent goes towards
        it.
    objective: "away" from f(x), as published: the ascent is of ||f(x + d) - f(x)||^2; or "towards" f(t(x))
        and away from f(x) (CSR): of cos(f(x + d), f(t(x))) - cos(f(x + d), f(x)).
    views: transforms of x + delta whose normalised embeddings' mean answers a countered image, in place of
        f(x + delta); none as published. Each costs a forward pass.
    view_weights: "equal", or "agreement": exp(10 cos) of each view's embedding and the equal mean.

    Raises InputError for values outside these ranges, for a transform that changes nothing where one is used,
    for objective "towards" without steps, for pass_through "both" with a gate that compares no embeddings and
    "views" with another than "none" or without any, for fewer than 3 views that are weighed by agreement, for
    a gate_depth with another gate than "agreement", and for an early_threshold without gate_depth.
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
        """The settings of the paper's main tables (l-inf; ViT-B/32)."""
        return cls()

    @classmethod
    def recommended(cls) -> CounterattackConfig:
        """What `benchmarks/pareto.py` chose on the bundled model: two soft crops of every picture."""
        return cls(
            gate="none",
            tau_threshold=0.0,
            pass_through="views",
            steps=0,
            views=tuple(f"gaussian 2.0 then crop 0.9 {place}" for place in ("centre", "top-left")),
        )

    @classmethod
    def of(cls, preset: Preset) -> CounterattackConfig:
        """`published` or `recommended`, by its name. Raises InputError for another one."""
        if preset not in get_args(Preset):
            raise InputError(f"expected a preset of {', '.join(get_args(Preset))}, got {preset!r}")
        return cls.published() if preset == "published" else cls.recommended()

    def ungated(self) -> CounterattackConfig:
        """The same settings under a threshold that no image reaches: all are countered, none passes early."""
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
        """Whether every image is answered in one way, with nothing added: the gradient is exact then."""
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
        """Whether f(x) is part of the answer of an image that passes, and known where one is countered."""
        return self.pass_through == "both" or (self.pass_through == "views" and "identity" in self.views)

    def transforms(self) -> tuple[str, ...]:
        """The transforms that the defence makes, each once."""
        names = (self.transform,) if self._uses_transform else ()
        return tuple(dict.fromkeys((*names, *self.views)))

    @property
    def _uses_transform(self) -> bool:
        return self.gate == "agreement" or self.objective == "towards"

    def calibrated(self, weights: str) -> CounterattackConfig:
        """The same settings, marked as calibrated for a model.

        weights: the fingerprint of the image tower that the gate measures by (`clipfast.models.fingerprint`).
        """
        return dataclasses.replace(self, calibrated_for=self._mark(weights))

    def is_calibrated(self, weights: str) -> bool:
        """Whether tau_threshold was calibrated for these weights and this gate's settings, if it has any."""
        return self.gate == "none" or self.calibrated_for == self._mark(weights)

    def is_ttc(self) -> bool:
        """Whether gate, counterattack and answer are of the published kind, whatever their numbers."""
        return self.gate == "drift" and self.objective == "away" and not self.views

    def is_randomised(self) -> bool:
        """Whether an answer depends on the noise that is drawn."""
        return self.moves or GATES[self.gate].draws

    def gates_as_published(self) -> bool:
        """Whether gate and threshold are those of `published`, with all that drift is measured with."""
        names, published = ("gate", "tau_threshold", "eps", "norm"), type(self).published()
        return all(getattr(self, name) == getattr(published, name) for name in names)

    def _mark(self, weights: str) -> str:
        import hashlib  # a sixth of what `import clipfast` takes

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
        return cls.from_settings(values)

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> CounterattackConfig:
        """Settings by their names, as older versions named them too. Raises InputError for others."""
        values = dict(settings)
        # CSR's gate had a name, and its filter's radius, of its own.
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


# Far beyond what helps, and little enough to be computed.
_LARGEST, _MOST_STEPS, _STEEPEST, _MOST_VIEWS, _MOST_BLOCKS = 3.4e38, 1000, 80, 64, 1000

_CHOICES = {
    "norm": Norm,
    "pass_through": PassThrough,
    "gate": Gate,
    "gate_tokens": GateTokens,
    "objective": Objective,
    "view_weights": ViewWeights,
}
