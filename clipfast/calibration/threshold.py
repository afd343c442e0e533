"""Drift thresholds and their cost: from measured drifts to a config that is marked as calibrated."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..config import CounterattackConfig
from ..defence.passes import Passes, engine_passes
from ..errors import InputError
from ..files import write_text
from ..measurement.statistics import wilson
from .separation import Separation, countered_share, separation

__all__ = [
    "Calibration",
    "Measured",
    "Right",
    "calibrate",
    "expected_passes",
    "figures_beside",
    "report_path",
    "threshold_balanced",
    "threshold_early",
    "threshold_for_rate",
    "write_calibration",
]

CALIBRATION_SCHEMA = 1

# With fewer pictures an interval of the AUROC says nothing.
LEAST_PICTURES = 10
# The share of the clean pictures, and of the attacked, that may pass early though the embeddings disagree.
EARLY_MISSED = 0.01


class Right(NamedTuple):
    """Which of N pictures are classified right, by what the defence does with them.

    Attributes:
        undefended: bool [N], right without a defence.
        passed: bool [N], right by the defence's answer if it lets them pass.
        countered: bool [N], right by the defence's answer if it counters them.
    """

    undefended: NDArray[np.bool_]
    passed: NDArray[np.bool_]
    countered: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of N pictures.

    Attributes:
        drift: float32 [N], what the gate measures. Where `tokens` are given, by embeddings alone.
        right: Which pictures are right on each side of the gate; None without labels.
        tokens: float32 [N], how well tokens agree at the gate's depth, for settings under which images may
            pass early; else None.
    """

    drift: NDArray[np.float32]
    right: Right | None = None
    tokens: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.drift)

    def accuracy(self, threshold: float) -> float:
        """Returns the share of right pictures if drifts strictly below a threshold are countered.

        The share is in [0, 1]. Needs `right`.

        Args:
            threshold: The threshold.
        """
        assert self.right is not None
        return float(np.where(self.drift < threshold, self.right.countered, self.right.passed).mean())

    def with_early(self, early_threshold: float) -> Measured:
        """What the gate measures that lets pictures pass early: see `CounterattackConfig.early_threshold`."""
        assert self.tokens is not None
        early = self.tokens >= np.float32(early_threshold)
        return Measured(drift=np.where(early, 1 + self.tokens, self.drift), right=self.right)

    @classmethod
    def joined(cls, parts: list[Measured]) -> Measured:
        """Returns the pictures of all parts, in order.

        Args:
            parts: At least one. Either all have `right` or none does.
        """
        rights = [part.right for part in parts if part.right is not None]
        tokens = [part.tokens for part in parts if part.tokens is not None]
        assert {len(rights), len(tokens)} <= {0, len(parts)}
        return cls(
            drift=np.concatenate([part.drift for part in parts]),
            right=Right(*(np.concatenate(flags) for flags in zip(*rights, strict=True))) if rights else None,
            tokens=np.concatenate(tokens) if tokens else None,
        )


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A threshold and its effect on the pictures that it was set on.

    Attributes:
        config: The settings with the threshold, marked as calibrated.
        rule: How the threshold was chosen, in words.
        run: The facts that the figures are quoted with, such as model, attack and seed.
        clean: What was measured of the clean pictures.
        attacked: What was measured of the attacked pictures, or None if there are none.
        separation: How well the gate tells attacked from clean pictures, or None without attacked ones.
        attacked_share: The share of attacked images in the traffic that the expected cost is for, in
            [0, 1].
        drift_encoder: Whether another tower than the one that answers measures drift.
        blocks: The number of blocks of the tower that measures drift, or None if it is not known.
    """

    config: CounterattackConfig
    rule: str
    run: dict[str, Any]
    clean: Measured
    attacked: Measured | None
    separation: Separation | None
    attacked_share: float
    drift_encoder: bool
    blocks: int | None = None

    def figures(self) -> dict[str, float]:
        """Returns the effect of the threshold, by name.

        Names with "countered", "accuracy" or "share", and those of the AUROC, are shares in [0, 1].
        `forward_passes` and `backward_passes` are encoder passes an image. Names with "pictures" are
        counts. `clean_countered_low` and `clean_countered_high` are the 95 % score interval (Wilson, JASA
        1927) of `clean_countered`. `attack_eps` is in [0, 1] pixel units. Figures that need attacked
        pictures, labels or an attack are left out without them.
        """
        countered = self._countered(self.config.tau_threshold)
        interval = wilson(round(countered[0] * len(self.clean)), len(self.clean))
        figures = {
            "tau_threshold": self.config.tau_threshold,
            "clean_pictures": len(self.clean),
            "clean_countered": countered[0],
            "clean_countered_low": interval.low,
            "clean_countered_high": interval.high,
        }
        if self.attacked is not None and self.separation is not None:
            figures |= {
                "attacked_pictures": len(self.attacked),
                "attacked_countered": countered[1],
                "balanced_accuracy": (1 - countered[0] + countered[1]) / 2,
                "auroc": self.separation.auroc,
                "auroc_low": self.separation.interval.low,
                "auroc_high": self.separation.interval.high,
            }
        for name, measured in (("clean", self.clean), ("attacked", self.attacked)):
            if measured is not None and measured.right is not None:
                figures[f"{name}_accuracy"] = measured.accuracy(self.config.tau_threshold)
                figures[f"{name}_accuracy_undefended"] = float(measured.right.undefended.mean())
        figures |= {name: self.run[name] for name in ("attack_eps", "seed") if self.run.get(name) is not None}
        if self.config.early_threshold is not None:
            early = self._early()
            figures |= {"early_threshold": self.config.early_threshold, "clean_early": early[0]}
            figures |= {} if self.attacked is None else {"attacked_early": early[1]}
        share = self._paying(countered)
        passes = self._expected(share)
        return figures | {
            "attacked_share": self.attacked_share,
            "paying_share": share,
            "forward_passes": passes.forward,
            "backward_passes": passes.backward,
        }

    def curve(self) -> dict[str, list[float]]:
        """Returns figures at the percentiles of the measured drifts, by name, as lists of equal length.

        Each list has a value for each distinct one of 101 thresholds from the smallest to the largest
        drift.
        """
        pooled = np.concatenate([m.drift for m in (self.clean, self.attacked) if m is not None])
        thresholds = np.unique(np.quantile(pooled, np.linspace(0, 1, 101))).tolist()
        columns: dict[str, list[float]] = {"tau_threshold": thresholds}
        for name, measured in (("clean", self.clean), ("attacked", self.attacked)):
            if measured is not None:
                columns[f"{name}_countered"] = countered_share(measured.drift, thresholds).tolist()
                if measured.right is not None:
                    columns[f"{name}_accuracy"] = [measured.accuracy(t) for t in thresholds]
        costs = [self._expected(self._paying(self._countered(t))) for t in thresholds]
        columns["forward_passes"] = [cost.forward for cost in costs]
        columns["backward_passes"] = [cost.backward for cost in costs]
        return columns

    def to_json(self) -> str:
        """Returns the report as JSON text.

        It holds how the calibration was run, the rule, the config, the separation in words, the figures,
        the curve and the percentiles of drift.

        Raises:
            ValueError: If a number is not finite.
        """
        quantiles = {
            name: np.quantile(measured.drift, np.linspace(0, 1, 101)).tolist()
            for name, measured in (("clean", self.clean), ("attacked", self.attacked))
            if measured is not None
        }
        report = {
            "schema": CALIBRATION_SCHEMA,
            "run": self.run,
            "rule": self.rule,
            "config": dataclasses.asdict(self.config),
            "gate": None if self.separation is None else str(self.separation),
            "figures": self.figures(),
            "curve": self.curve(),
            "drift_percentiles": quantiles,
        }
        return json.dumps(report, indent=1, allow_nan=False) + "\n"

    def _expected(self, paying: float) -> Passes:
        early, drift_encoder = self._paying(self._early()), self.drift_encoder
        return expected_passes(
            self.config, paying, early=early, blocks=self.blocks, drift_encoder=drift_encoder
        )

    def _early(self) -> tuple[float, float]:
        """Shares of the clean and of the attacked pictures that pass early."""
        clean, attacked = (
            0.0 if measured is None else float(self.config.passed_early(measured.drift).mean())
            for measured in (self.clean, self.attacked)
        )
        return clean, attacked

    def _countered(self, threshold: float) -> tuple[float, float]:
        """Shares of the clean and of the attacked pictures that are countered."""
        clean, attacked = (
            0.0 if measured is None else float(countered_share(measured.drift, threshold))
            for measured in (self.clean, self.attacked)
        )
        return clean, attacked

    def _paying(self, shares: tuple[float, float]) -> float:
        """The share of the traffic, of shares of clean and attacked pictures that pay for the loop."""
        return (1 - self.attacked_share) * shares[0] + self.attacked_share * shares[1]


def calibrate(
    clean: Measured,
    attacked: Measured | None = None,
    *,
    config: CounterattackConfig,
    weights: str,
    rate: float | None,
    attacked_share: float = 0.0,
    drift_encoder: bool = False,
    blocks: int | None = None,
    run: dict[str, Any] | None = None,
    seed: int = 0,
) -> Calibration:
    """Sets tau_threshold on measured drifts, and marks the config as calibrated.

    A rate is a promise about clean pictures alone. It holds whether the gate separates or not, and
    `separation` tells which. Balanced accuracy is about telling attacked from clean pictures. If the gate
    cannot do that, the best threshold is fitted to chance, so that it is refused.

    If the config has an early_threshold, that is set too, by `threshold_early`.

    Args:
        clean: What was measured of clean pictures.
        attacked: What was measured of attacked pictures, or None if there are none.
        config: The settings that drift was measured with.
        weights: The fingerprint of the image tower that measured drift.
        rate: The share of clean pictures that may be countered, between 0 and 1. None sets the best
            balanced accuracy of telling clean from attacked pictures.
        attacked_share: See `Calibration`.
        drift_encoder: See `Calibration`.
        blocks: See `Calibration`.
        run: See `Calibration`.
        seed: The seed of bootstraps.

    Returns:
        The calibration, whose config has the new thresholds.

    Raises:
        InputError: If the rate is not between 0 and 1; `attacked_share` is outside [0, 1], or above 0
            without attacked pictures; the config has an early_threshold and there are no attacked
            pictures; there are too few clean pictures for the rate, or fewer than 10 of either kind where
            there are attacked ones; balanced accuracy is asked for without attacked
            pictures or with a gate that does not separate; or drifts are not finite.
    """
    if not 0 <= attacked_share <= 1:
        raise InputError(f"expected a share of attacked traffic in [0, 1], got {attacked_share!r}")
    if attacked is None and attacked_share > 0:
        raise InputError(
            f"an attacked share of {attacked_share:g} needs attacked pictures, got clean ones alone"
        )
    found = None
    if attacked is not None:
        for name, measured in (("clean", clean), ("attacked", attacked)):
            if len(measured) < LEAST_PICTURES:
                raise InputError(f"expected at least {LEAST_PICTURES} {name} pictures, got {len(measured)}")
        found = separation(clean.drift, attacked.drift, seed=seed)
    if rate is not None:
        threshold = threshold_for_rate(clean.drift, rate)
        rule = f"at most {100 * rate:g} % of clean pictures are countered"
    else:
        if attacked is None or found is None:
            raise InputError("the best balanced accuracy needs attacked pictures, got clean ones alone")
        if found.kind != "separates":
            raise InputError(
                f"no threshold has a balanced accuracy better than chance: {found}; "
                "a rate of clean pictures countered can still be set"
            )
        threshold = threshold_balanced(clean.drift, attacked.drift)
        rule = "best balanced accuracy of telling clean from attacked"
    config = dataclasses.replace(config, tau_threshold=threshold)
    if config.early_threshold is not None:
        if attacked is None:
            raise InputError("an early_threshold needs attacked pictures, got clean ones alone")
        early = threshold_early(clean, attacked, threshold)
        config = dataclasses.replace(config, early_threshold=early)
        clean, attacked = clean.with_early(early), attacked.with_early(early)
        found = separation(clean.drift, attacked.drift, seed=seed)
        rule += f"; at most {100 * EARLY_MISSED:g} % of either kind pass early whose embeddings disagree"
    return Calibration(
        config=config.calibrated(weights),
        rule=rule,
        run=run or {},
        clean=clean,
        attacked=attacked,
        separation=found,
        attacked_share=attacked_share,
        drift_encoder=drift_encoder,
        blocks=blocks,
    )


def threshold_for_rate(drift: ArrayLike, rate: float) -> float:
    """Returns the largest threshold that counters at most floor(rate * N) of N clean pictures.

    It is a float32, and lies halfway between two drifts so that rounding moves no picture over it.
    Pictures of equal drift are countered all or none: none if all would be too many.

    Args:
        drift: [N], the drifts of clean pictures.
        rate: The share of them that may be countered, between 0 and 1.

    Raises:
        InputError: If the rate is not between 0 and 1, or there are too few pictures for one to be
            countered.
    """
    ordered = np.sort(np.asarray(drift, np.float32))
    if not 0 < rate < 1:
        raise InputError(f"expected a rate between 0 and 1, both excluded, got {rate!r}")
    count = min(math.floor(rate * len(ordered) + 1e-9), len(ordered) - 1)
    if count < 1:
        raise InputError(
            f"expected at least {math.ceil(1 / rate - 1e-9)} clean pictures for a rate of {rate:g}, "
            f"got {len(ordered)}"
        )
    # The first picture that must pass. Those of the same drift pass too.
    return _between(ordered, int(np.searchsorted(ordered, ordered[count], side="left")))


def threshold_balanced(clean: ArrayLike, attacked: ArrayLike) -> float:
    """Returns the threshold of the best balanced accuracy, (clean passed + attacked countered) / 2.

    Of equally good thresholds it is the lowest, which is the cheapest. It is a float32, and lies halfway
    between two drifts.

    Args:
        clean: [N], the drifts of clean pictures.
        attacked: [M], the drifts of attacked pictures.

    Raises:
        InputError: If there are no drifts of either kind, or they are not finite.
    """
    pooled = np.unique(np.concatenate([np.asarray(d, np.float32) for d in (clean, attacked)]))
    thresholds = np.array([_between(pooled, i) for i in range(len(pooled))])
    gained = countered_share(attacked, thresholds) - countered_share(clean, thresholds)
    return float(thresholds[gained.argmax()])


def threshold_early(clean: Measured, attacked: Measured, tau_threshold: float) -> float:
    """Finds the lowest early_threshold at which hardly any image passes early that should be countered.

    Should be countered: by the agreement of its embeddings. Of the clean pictures, and of the attacked ones,
    at most the share EARLY_MISSED are such.

    Args:
        clean: What was measured of clean pictures, tokens included.
        attacked: What was measured of attacked pictures, tokens included.
        tau_threshold: The threshold of the embeddings' agreement.

    Returns:
        A float32 from 0.01 to 1, halfway between two pictures. It is 1 if no lower one will do.
    """
    lowest = 0.01
    for measured in (clean, attacked):
        assert measured.tokens is not None
        missed = np.sort(measured.tokens[measured.drift < tau_threshold])[::-1]
        allowed = math.floor(EARLY_MISSED * len(measured) + 1e-9)
        if allowed < len(missed):  # the first that must not pass, counted from the steadiest
            ordered = np.append(np.unique(measured.tokens), np.float32(1))
            above = int(np.searchsorted(ordered, missed[allowed], side="right"))
            lowest = max(lowest, _between(ordered, above)) if above < len(ordered) else 1.0
    return min(lowest, 1.0)


def expected_passes(
    config: CounterattackConfig,
    countered: float,
    *,
    early: float = 0.0,
    blocks: int | None = None,
    drift_encoder: bool = False,
) -> Passes:
    """Returns the encoder passes an image, on average; see `clipfast.defence.passes.engine_passes`.

    Args:
        config: The settings of the defence.
        countered: The share of images that are countered, in [0, 1].
        early: The share of images that pass early, in [0, 1].
        blocks: The number of blocks of the tower that measures drift, or None if it is not known.
        drift_encoder: Whether another tower than the one that answers measures drift.
    """
    fates = ((1 - countered - early, 0, 0), (countered, 1, 0), (early, 0, 1))
    each = [
        engine_passes(
            config, images=1, countered=paying, early=passing, blocks=blocks, drift_encoder=drift_encoder
        )
        for _, paying, passing in fates
    ]
    shares = [share for share, *_ in fates]
    return Passes(*(sum(s * n for s, n in zip(shares, ns, strict=True)) for ns in zip(*each, strict=True)))


def write_calibration(calibration: Calibration, path: Path) -> Path:
    """Writes the config as JSON, and the report beside it.

    Args:
        calibration: The calibration.
        path: The file for the config.

    Returns:
        The report's path.

    Raises:
        InputError: If a file cannot be written.
    """
    report = report_path(path)
    write_text(report, calibration.to_json())
    write_text(path, calibration.config.to_json() + "\n")  # last, so that its report is always there
    return report


def report_path(config: Path) -> Path:
    """Returns the path of the report beside a config file, with the suffix .calibration.json."""
    return config.with_suffix(".calibration.json")


def figures_beside(path: Path) -> dict[str, float] | None:
    """Reads the figures of a calibration from the report beside its config file.

    Args:
        path: The config file.

    Returns:
        The figures by name, or None if there is no report or it is of another config.

    Raises:
        InputError: If the report, or a config file that has one, cannot be read.
    """
    report = report_path(path)
    if not report.exists():
        return None
    try:
        values = json.loads(report.read_text(encoding="utf-8"))
        reported = CounterattackConfig.from_settings(values["config"])
        figures = {name: float(value) for name, value in values["figures"].items()}
        config = CounterattackConfig.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"cannot read the report of a calibration in {report}: {error!r}") from error
    return figures if reported == config else None


def _between(ordered: NDArray[np.float32], index: int) -> float:
    """A float32 above ordered[index - 1], or 0, and at most ordered[index]: halfway if possible."""
    low = ordered[index - 1] if index else np.float32(0)
    middle = low + (ordered[index] - low) / np.float32(2)
    return float(middle if middle > low else ordered[index])
