"""A defence's three stages in plain words, with their settings."""

from __future__ import annotations

from typing import NamedTuple

from ..attacks.levels import level
from ..config import GATES, CounterattackConfig
from ..transforms import parse_chain, written

__all__ = ["Stages", "stages"]

_COPIES = {
    "identity": "the picture as it is",
    "mirror": "the picture mirrored",
    "blur": "the picture under a 3x3 blur",
    "gaussian": "the picture under a Gaussian blur of {number:g} px",
    "low_pass": "the picture without what is finer than {number:.3g} cycles a side",
    "crop": "{percent:g} % of each side, enlarged, at the {place}",
}


class Stages(NamedTuple):
    """What a defence does with a picture, in a few sentences for each stage.

    Attributes:
        gate: What is measured, and which pictures are countered.
        counterattack: How a countered picture is moved.
        answer: What a picture is classified from.
    """

    gate: str
    counterattack: str
    answer: str


def stages(config: CounterattackConfig) -> Stages:
    """Returns what a defence with these settings does."""
    return Stages(_gate(config), _counterattack(config), _answer(config))


def _gate(config: CounterattackConfig) -> str:
    if config.gate == "none":
        way = "countered" if config.tau_threshold > 0 else f"answered {_passing(config)}"
        return f"There is none: nothing is measured, and every picture is {way}."
    noise = _size(config.gate_noise if config.gate == "high_noise_drift" else config.eps, config)
    drift = (
        f"Noise of at most {noise} is added to the picture. "
        "Drift is how far that moves the embedding, as a share of its length."
    )
    measured = {
        "drift": drift,
        "high_noise_drift": f"{drift} Steadiness is 1 / (1 + drift): low where drift is high.",
        "agreement": f"A copy is made: {_copy(config.transform)}. "
        "Agreement is the cosine of the picture's embedding and the copy's.",
    }[config.gate]
    return (
        f"{measured} Pictures whose {GATES[config.gate].measures} is below {config.tau_threshold:.4g} are "
        f"countered. The others are answered {_passing(config)}."
    )


def _counterattack(config: CounterattackConfig) -> str:
    if config.is_fixed:
        return "There is none, as no picture is held back."
    if not config.steps:
        return f"There is none. Countered pictures stay {_unmoved(config)}."
    where, copy = "away from where it was", ""
    if config.objective == "towards":
        where = f"towards the copy's and {where}"
        if config.gate != "agreement":
            copy = f" The copy is {_copy(config.transform)}."
    steps = "1 step" if config.steps == 1 else f"{config.steps} steps"
    momentum = f", with momentum {config.momentum:g}" if config.momentum else ""
    return (
        f"A countered picture gets noise. Then it is moved in {steps} of {_size(config.step_size, config)}"
        f"{momentum}. Its embedding goes {where}.{copy} All of it stays within "
        f"{_size(config.eps, config)} of the picture that came."
    )


def _answer(config: CounterattackConfig) -> str:
    picture = "moved picture" if config.steps else "picture"
    if not config.views or (config.is_fixed and config.pass_through != "views"):
        return f"The {picture} is classified as CLIP does it."
    views = "1 view" if len(config.views) == 1 else f"{len(config.views)} views"
    weighed = " Views that agree with the others count more." if config.view_weights == "agreement" else ""
    return (
        f"The answer comes from {views} of the {picture}: {_views(config.views)}. "
        f"The mean of their embeddings is classified.{weighed}"
    )


def _passing(config: CounterattackConfig) -> str:
    several = {"both": "by the mean of both embeddings", "views": "by its views"}
    return several.get(config.pass_through) or _unmoved(config)


def _unmoved(config: CounterattackConfig) -> str:
    return "with noise" if config.pass_through == "noise" else "as they came"


def _size(value: float, config: CounterattackConfig) -> str:
    """A length in [0, 1] pixel units, in words: of each pixel, or in l2 of the whole picture."""
    return level(value) if config.norm == "linf" else f"{value:g} (l2)"


def _copy(transform: str) -> str:
    told = []
    for made in parse_chain(transform):
        number = made.number or 0.0
        told.append(_COPIES[made.name].format(number=number, percent=100 * number, place=made.place))
    return ", then ".join([told[0], *(words.removeprefix("the picture ") for words in told[1:])])


def _views(views: tuple[str, ...]) -> str:
    """Each view, or the first of several crops of one size and the places of the others."""
    told: list[str] = []
    before = None
    for *first, last in map(parse_chain, views):
        kind = first, last.name, last.number
        if last.place is not None and before == kind:
            told[-1] += f", {last.place}"
        else:
            told.append(_copy(written((*first, last))))
        before = kind
    return "; ".join(told)
