"""The defences that an evaluation compares, by name, on one model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from ...attacks.system import System, undefended
from ...classifier import DefendedClassifier
from ...config import CounterattackConfig
from ...errors import InputError
from ...models.fingerprint import fingerprint
from ...transforms import csr_radius
from ..store import digest
from . import systems
from .baselines import ET3
from .purification import CLIPURE

__all__ = ["DEFENCES", "Defence", "defence_of", "make_defences", "usual_defences"]

_CSR_THRESHOLD = 0.85  # as published, ICML 2026
_NAC_MOMENTUM = 0.9


@dataclass(frozen=True, kw_only=True)
class Defence:
    """A system under evaluation.

    Attributes:
        name: A name of `DEFENCES`, or the one given to `defence_of`.
        system: The system.
        description: What it is, for readers.
        identity: What its answers depend on beside the pixels, as JSON values.
    """

    name: str
    system: System
    description: str
    identity: dict[str, Any]


# Returns a system, and its settings as JSON values.
_Make = Callable[[DefendedClassifier], tuple[System, dict[str, Any]]]


def _as_is(make: Callable[[DefendedClassifier], System]) -> _Make:
    return lambda base: (make(base), _settings(base.config))


def _published(make: Callable[..., System], settings: NamedTuple) -> _Make:
    """Makes a system under settings that have nothing of the counterattack's."""
    return lambda base: (make(base, settings), settings._asdict())


def _with(make: Callable[[DefendedClassifier], System], **changes: Any) -> _Make:
    """Makes a system under other settings on the same model."""

    def made(base: DefendedClassifier) -> tuple[System, dict[str, Any]]:
        config = dataclasses.replace(base.config, **changes)
        return make(base.with_config(config, on_trial=True)), _settings(config)

    return made


def _filtered(make: Callable[[DefendedClassifier], System], **changes: Any) -> _Make:
    """Makes a system with a low-pass filter that cuts off as much of its pictures as CSR's does."""

    def made(base: DefendedClassifier) -> tuple[System, dict[str, Any]]:
        return _with(make, transform=f"low_pass {csr_radius(base.image_size)!r}", **changes)(base)

    return made


def _ttc(name: str) -> Callable[[DefendedClassifier], System]:
    return partial(systems.countered, name=name)


class _Recipe(NamedTuple):
    """How a defence is made.

    of_twin: on the fine-tuned tower. recommended: under the recommended settings, not the published ones.
    """

    description: str
    make: _Make
    of_twin: bool = False
    recommended: bool = False


def _twin(base: DefendedClassifier) -> System:
    return undefended(base, "fine-tuned twin")


# In the order of reports.
DEFENCES = {
    "none": _Recipe("plain CLIP", _as_is(undefended)),
    "rn": _Recipe("random noise of eps alone", _as_is(systems.noisy)),
    "tte": _Recipe("mean over flips and crops (TTE)", _as_is(systems.ensembled)),
    "anti-adversary": _Recipe("steps towards the model's own answer", _as_is(systems.anti_adversarial)),
    "hd": _Recipe("steps away from every answer (hedge defence)", _as_is(systems.hedged)),
    "clipure": _Recipe(
        "steps of the embedding towards the null prompt's (CLIPure-Cos)",
        _published(systems.purified, CLIPURE),
    ),
    "et3": _Recipe("steps down the logits' energy (ET3)", _published(systems.energy_lowered, ET3)),
    "blur": _Recipe("3x3 mean filter", _as_is(systems.blurred)),
    "low-pass": _Recipe("low-pass filter", _filtered(systems.low_passed)),
    "ttc": _Recipe(
        "counterattack; images that pass keep their noise",
        _with(_ttc("TTC"), pass_through="noise"),
    ),
    "ttc-clean": _Recipe(
        "counterattack; images that pass are answered as they came",
        _with(_ttc("TTC, clean pass"), pass_through="clean"),
    ),
    "nac": _Recipe("counterattack with Nesterov steps (NAC)", _with(_ttc("NAC"), momentum=_NAC_MOMENTUM)),
    "csr": _Recipe(
        "counterattack behind CSR's gate, a low-pass filter",
        _filtered(
            _ttc("TTC, low-pass gate"),
            gate="agreement",
            tau_threshold=_CSR_THRESHOLD,
            pass_through="clean",
        ),
    ),
    "views": _Recipe(
        "mean of the views that answer countered images, of every picture, without a gate",
        _as_is(systems.viewed),
        recommended=True,
    ),
    "recommended": _Recipe(
        "gate, counterattack and answer as recommended", _as_is(_ttc("recommended")), recommended=True
    ),
    "recommended-twin": _Recipe(
        "gate, counterattack and answer as recommended, on the fine-tuned tower",
        _as_is(_ttc("recommended on the twin")),
        of_twin=True,
        recommended=True,
    ),
    "twin": _Recipe("adversarially fine-tuned tower", _as_is(_twin), of_twin=True),
    "ttc-twin": _Recipe(
        "counterattack on the fine-tuned tower, drift by the original",
        _with(_ttc("TTC on the twin")),
        of_twin=True,
    ),
}


def usual_defences(recommended: CounterattackConfig, *, with_twin: bool) -> list[str]:
    """Returns the names of the defences that are compared if none are named.

    These are all defences, without those on a fine-tuned twin if there is none. "views" is left out if
    the recommended settings answer every picture in one fixed way, as it would be the same system.

    Args:
        recommended: The recommended settings of the model.
        with_twin: Whether there is a fine-tuned twin.
    """
    return [
        name
        for name, recipe in DEFENCES.items()
        if (with_twin or not recipe.of_twin) and not (name == "views" and recommended.is_fixed)
    ]


def make_defences(
    names: Sequence[str],
    classifier: DefendedClassifier,
    twin: DefendedClassifier | None,
    *,
    recommended: CounterattackConfig | None = None,
) -> list[Defence]:
    """Makes the named defences; undefended CLIP comes first, whether it is named or not.

    Args:
        names: Names of `DEFENCES`, at least one.
        classifier: The model, under the published settings.
        twin: A classifier of the same classes on a fine-tuned tower; None if there is none, and then its
            defences may not be named.
        recommended: Settings in place of `CounterattackConfig.recommended`, with a threshold of this
            model.

    Returns:
        The defences, in the order of `DEFENCES`.

    Raises:
        InputError: If there are no names, if one is not known, or if one needs a twin and there is none.
    """
    if not names:
        raise InputError("expected at least one defence, got none")
    if unknown := [name for name in names if name not in DEFENCES]:
        raise InputError(f"expected defences of {', '.join(DEFENCES)}, got {', '.join(unknown)}")
    bases = {False: classifier, True: twin}  # by whether a defence is of the twin
    made = []
    for name, recipe in DEFENCES.items():
        if name not in names and name != "none":
            continue
        base = bases[recipe.of_twin]
        if base is None:
            raise InputError(f"defence {name!r} needs a fine-tuned tower: --checkpoint FILE")
        if recipe.recommended:
            base = base.with_config(recommended or CounterattackConfig.recommended(), on_trial=True)
        made.append(_made(name, recipe, base))
    return made


def defence_of(name: str, config: CounterattackConfig, classifier: DefendedClassifier) -> Defence:
    """Makes a defence of a classifier under given settings.

    Args:
        name: What it is called.
        config: The settings.
        classifier: The model.
    """
    return _made(name, _Recipe(name, _as_is(_ttc(name))), classifier.with_config(config, on_trial=True))


def _made(name: str, recipe: _Recipe, base: DefendedClassifier) -> Defence:
    system, settings = recipe.make(base)
    identity = {"defence": name, "config": settings, **_weights(base)}
    return Defence(name=name, system=system, description=recipe.description, identity=identity)


def _settings(config: CounterattackConfig) -> dict[str, Any]:
    return json.loads(config.to_json())


def _weights(classifier: DefendedClassifier) -> dict[str, Any]:
    """Returns what answers depend on beside the settings."""
    drift_tower = classifier.drift_tower
    return {
        "weights": fingerprint(classifier.image_tower.model.visual),
        "drift_weights": None if drift_tower is None else fingerprint(drift_tower.model.visual),
        "classnames": list(classifier.classnames),
        "templates": [t if isinstance(t, str) else t("{}") for t in classifier.templates],
        "head": digest({}, *(t.cpu().numpy() for t in (classifier.class_weights, classifier.logit_scale))),
        "precision": classifier.precision,
    }
