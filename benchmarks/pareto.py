"""Which gate, counterattack and answer belong together: `python benchmarks/pareto.py OUT`, some hours.

Every combination of the lists below answers pictures of a development stream, clean and under PGD-10 made on
the undefended model. Those that hold what is asked for there are attacked themselves, through `clipfast
eval`'s own attacks, in two rounds: those without a counterattack behind a gate on few pictures, and the best
of them on more, with one and without. Finished parts stay in OUT: a run that was stopped goes on. In two
processes, stage by stage, and then once without:

    for stage in transfer first second; do
        for i in 1 2; do OMP_NUM_THREADS=1 python benchmarks/pareto.py OUT --stage $stage --shard $i/2 & done
        wait
    done

The rule, written before this search was run. A combination of drawn shapes is eligible if on these pictures
- clean it is right as often as the undefended model, but for 2 points, for 2.1 encoder passes in the mean;
- under PGD-10 it is right on 90 % at 2/255 and on 85 % at 4/255;
- a countered picture costs at most 14 passes.
One of photographs (`--bars photographs`) may lose 3 points and cost 14 passes, and must be right on 25 points
more than the undefended model under PGD-10 at 2/255.
The first round keeps the three that are right most often in the worst case. Recommended is who is right most
often in the worst case of the second round. Of those that are within one standard error of the paired
difference, the one with the fewest passes in the mean at 10 % attacked traffic, and of several such the one
that is right most often under PGD-10 at 4/255. One that is right less often than its own gate and views
without a counterattack is out. The second round holds the best gate beside them, with each counterattack.

Two searches came before. Past gates whose passing pictures are answered as they came an attacker needs to
turn f(x) alone (`results/pareto_first_rounds.json`). Where both pictures of the gate answer he needs more,
but the mean of two soft crops of every picture, without a gate, kept more still, for fewer passes. So
pictures without a gate became candidates, and passes a condition. The gates of both are here again.

The pictures: those after the first 1000 that `clipfast eval` draws with the seed 0, on which figures are
reported. The first 500 of them set each gate's threshold, at 5 % of clean pictures countered.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import TaskProgressColumn
from rich.table import Table

from clipfast import CounterattackConfig, DefendedClassifier
from clipfast.attacks.levels import level
from clipfast.calibration.threshold import threshold_for_rate
from clipfast.cli.console import ProgressBar
from clipfast.defence.passes import engine_passes
from clipfast.errors import UncalibratedWarning
from clipfast.evaluation.attacking import attack_defences, work
from clipfast.evaluation.budgets import BUDGETS
from clipfast.evaluation.datasets import Images, find_dataset
from clipfast.evaluation.defences import Defence, make_defences
from clipfast.evaluation.defences.registry import defence_of
from clipfast.evaluation.planned_attacks import planned
from clipfast.evaluation.report.figures import worst_case
from clipfast.evaluation.results import CLEAN, Results, SystemResult
from clipfast.evaluation.runner import Runner, parse_shard
from clipfast.evaluation.store import Store, digest
from clipfast.measurement.statistics import paired_difference
from clipfast.models.bundled import BUNDLED
from clipfast.models.fingerprint import fingerprint

REPORTED, CALIBRATED_ON, RATE = 1000, 500, 0.05
EPS, LARGER_EPS = 2 / 255, 4 / 255
CORNERS = tuple(f"crop 0.9 {corner}" for corner in ("top-left", "top-right", "bottom-left", "bottom-right"))

COUNTERATTACKS: dict[str, dict[str, Any]] = {
    "none": {"steps": 0},
    "TTC": {"steps": 2},
    "towards": {"steps": 3, "objective": "towards", "step_size": 2 / 255},
}


class Bars(NamedTuple):
    """What a model's pictures ask of a combination.

    softness: deviations of the Gaussians in its views, in pixels. less_clean: what it may lose of undefended
    clean accuracy. least_right: under PGD-10, by eps; least_gain: over the undefended model's at EPS.
    most_passes: an image, clean in the mean, and countered.
    """

    softness: tuple[float, float, float]
    less_clean: float
    least_right: Mapping[float, float]
    least_gain: float
    most_passes: tuple[float, int]


# A picture of 32 pixels is gone under a Gaussian that one of 96 hardly shows, and undefended CLIP is wrong on
# part of the photographs as they are.
BARS = {
    "drawn": Bars((1.0, 1.5, 2.0), 0.02, {EPS: 0.90, LARGER_EPS: 0.85}, 0.0, (2.1, 14)),
    "photographs": Bars((0.5, 0.75, 1.0), 0.03, {}, 0.25, (14, 14)),
}


class Space:
    """The stages that are combined, by name."""

    def __init__(self, softness: tuple[float, float, float]) -> None:
        least, middle, _ = softness
        soft = tuple(f"gaussian {least} then {corner}" for corner in CORNERS)
        self.gates: dict[str, dict[str, Any]] = {
            "drift": {"gate": "drift"},
            "blur": {"gate": "agreement", "transform": "blur"},
            "gaussian": {"gate": "agreement", "transform": f"gaussian {least}"},
            "soft crop": {"gate": "agreement", "transform": soft[0]},
            "gaussian, both": {
                "gate": "agreement",
                "transform": f"gaussian {least}",
                "pass_through": "both",
            },
            "mirror, both": {"gate": "agreement", "transform": "mirror", "pass_through": "both"},
            "crop, both": {"gate": "agreement", "transform": CORNERS[0], "pass_through": "both"},
            "soft crop, both": {"gate": "agreement", "transform": soft[0], "pass_through": "both"},
            "none": {"gate": "none", "tau_threshold": 0.0, "pass_through": "views"},
            "every": {"gate": "none", "tau_threshold": 1.0},
        }
        self.answers: dict[str, dict[str, Any]] = {
            "one": {},
            "corners": {"views": CORNERS},
            "seven": {"views": ("identity", "mirror", *CORNERS, "crop 0.9 centre")},
            "soft corners": {"views": soft},
            "opposite": {"views": (soft[0], soft[3])},
            "opposite, mirrored": {"views": (soft[0], soft[3], f"mirror then {soft[3]}")},
        }
        # What else answers every picture, without a gate.
        self.views: dict[str, dict[str, Any]] = {
            **{
                f"{name} at {deviation:g}": {
                    "views": tuple(f"gaussian {deviation} {view}".strip() for view in views)
                }
                for name, views in {
                    "whole": ("",),
                    "crop": (f"then {CORNERS[0]}",),
                    "whole and crop": ("", f"then {CORNERS[0]}"),
                    "whole and mirrored crop": ("", f"then mirror then {CORNERS[0]}"),
                    "opposite crops": (f"then {CORNERS[0]}", f"then {CORNERS[3]}"),
                    "centre and corner": ("then crop 0.9 centre", f"then {CORNERS[0]}"),
                }.items()
                for deviation in softness
            },
            f"whole and opposite crops at {middle:g}": {
                "views": tuple(
                    f"gaussian {middle}{view}" for view in ("", f" then {CORNERS[0]}", f" then {CORNERS[3]}")
                )
            },
        }
        # More views than there is room for, and the best gate.
        self.compared = (
            Candidate("none", "none", "seven"),
            Candidate("none", "none", f"whole and opposite crops at {middle:g}"),
            *(Candidate("soft crop, both", counterattack, "seven") for counterattack in COUNTERATTACKS),
        )

    def candidates(self) -> Iterator[Candidate]:
        """All combinations that change anything."""
        for names in itertools.product(self.gates, COUNTERATTACKS, self.answers):
            candidate = Candidate(*names)
            moves = candidate.counterattack != "none"
            if candidate.gate == "every" and moves:
                yield candidate
            if candidate.gate not in ("none", "every") and (moves or candidate.answer != "one"):
                yield candidate
        for answer in (*self.answers, *self.views):
            if answer != "one":
                yield Candidate("none", "none", answer)

    def config_of(self, candidate: Candidate, thresholds: Mapping[str, float]) -> CounterattackConfig:
        """Its settings. thresholds: of gates, by name."""
        settings = self.gates[candidate.gate] | COUNTERATTACKS[candidate.counterattack]
        answer = (self.answers | self.views)[candidate.answer]
        config = CounterattackConfig(**{"pass_through": "clean", **settings, **answer})
        threshold = thresholds.get(candidate.gate, config.tau_threshold)
        return dataclasses.replace(config, tau_threshold=threshold)


class Stage(NamedTuple):
    """How many pictures, and which attacks there are on them, with their settings."""

    pictures: int
    attacks: Mapping[str, Mapping[str, Any]]


# Who knows the defence: through its answer, past its gate, and kept from passing it.
KNOWING = {name: {"steps": 20, "samples": 1} for name in ("bpda", "gate-passed", "gate-countered")}
STAGES = {"transfer": Stage(100, {}), "first": Stage(50, KNOWING), "second": Stage(150, KNOWING)}
BEST = 3


class Candidate(NamedTuple):
    """A combination, by its names in the lists above."""

    gate: str
    counterattack: str
    answer: str

    @property
    def name(self) -> str:
        return ", ".join(self)

    @property
    def without_counterattack(self) -> Candidate:
        """Where every picture is countered, the views of every picture."""
        gate = "none" if self.gate == "every" else self.gate
        return self._replace(gate=gate, counterattack="none")


class Found(NamedTuple):
    """What a candidate does on the development pictures. Shares are in [0, 1], passes an image."""

    clean: float
    attacked: dict[float, float]  # by eps
    passes_clean: float
    passes_mixed: float  # one in ten attacked
    passes_countered: int
    worst: NDArray[np.bool_] | None = None  # bool [N]: right whatever comes at EPS

    def eligible(self, undefended: Found, bars: Bars) -> bool:
        """Whether it holds what is asked for under transfer."""
        clean, countered = bars.most_passes
        return (
            self.passes_clean <= clean
            and self.passes_countered <= countered
            and self.clean >= undefended.clean - bars.less_clean
            and all(self.attacked[eps] >= least for eps, least in bars.least_right.items())
            and self.attacked[EPS] >= undefended.attacked[EPS] + bars.least_gain
        )


@torch.no_grad()
def thresholds(
    classifier: DefendedClassifier, images: Images, store: Store, gates: Mapping[str, dict[str, Any]]
) -> dict[str, float]:
    """Each gate's threshold on clean pictures, by name."""
    found = {}
    pixels = images.pixels.to(classifier.device)
    for name, settings in gates.items():
        if settings["gate"] == "none":
            continue

        def measured(settings: dict[str, Any] = settings) -> dict[str, NDArray[Any]]:
            config = CounterattackConfig(**{"pass_through": "clean", **settings})
            return {"drift": classifier.with_config(config).predict(pixels, seed=0).drift.cpu().numpy()}

        drift = store.get(digest({"part": "gate", **settings}, images.pixels.numpy()), measured)["drift"]
        found[name] = threshold_for_rate(drift, RATE)
    return found


def found_of(results: Results, system: SystemResult, config: CounterattackConfig | None) -> Found:
    """config: None of undefended CLIP."""
    pgd = {eps: f"pgd-10@{level(eps)}" for eps in (EPS, LARGER_EPS)}
    spent = {key: passes.forward + passes.backward for key, passes in system.passes.items()}
    countered = 1 if config is None else sum(engine_passes(config, images=1, countered=1))
    if config is not None and config.is_fixed:
        countered = len(config.views)
    clean = spent[CLEAN.key]
    has_attackers = any(column.kind == "adaptive" for column in results.columns)
    return Found(
        clean=float(system.right[CLEAN.key].mean()),
        attacked={eps: float(system.right[key].mean()) for eps, key in pgd.items() if key in system.right},
        passes_clean=clean,
        passes_mixed=0.9 * clean + 0.1 * spent[pgd[EPS]],
        passes_countered=countered,
        worst=worst_case(results, system, EPS) if has_attackers else None,
    )


def recommended(found: Mapping[Candidate | None, Found], bars: Bars) -> Candidate | None:
    """By the rule above, of candidates that are eligible and in the second round; None if there is none."""
    worst = {
        c: one.worst
        for c, one in found.items()
        if c is not None and one.worst is not None and len(one.worst) == STAGES["second"].pictures
    }

    def gains(candidate: Candidate) -> bool:
        without = worst.get(candidate.without_counterattack)
        return without is None or worst[candidate].mean() >= without.mean()

    left = {c: right for c, right in worst.items() if found[c].eligible(found[None], bars) and gains(c)}
    if not left:
        return None
    best = max(left, key=lambda candidate: left[candidate].mean())

    def as_good(candidate: Candidate) -> bool:
        difference = paired_difference(left[best], left[candidate])
        return difference.mean <= difference.standard_error

    def cost(candidate: Candidate) -> tuple[float, float]:
        return found[candidate].passes_mixed, -found[candidate].attacked[LARGER_EPS]

    return min(filter(as_good, left), key=cost)


class Search:
    """One model and its development pictures."""

    def __init__(self, options: argparse.Namespace, bar: ProgressBar) -> None:
        dataset = find_dataset(options.data, root=options.root)
        self.bars = BARS[options.bars]
        self.space = Space(self.bars.softness)
        self.classifier = _classifier(options, dataset.classnames, dataset.templates)
        drawn = dataset.take(
            self.classifier.preprocess,
            CALIBRATED_ON + max(stage.pictures for stage in STAGES.values()),
            after=REPORTED,
        )
        self.images, self.bar = _rest(drawn, CALIBRATED_ON), bar
        self.stage, self.shard = options.stage, options.shard
        identity = {
            "weights": fingerprint(self.classifier.image_tower.model.visual),
            "data": dataset.name,
            "threads": torch.get_num_threads(),
            "chunk": options.chunk,
        }
        self.chunk, self.store = options.chunk, Store(options.out, identity)
        self.thresholds = thresholds(
            self.classifier, _first(drawn, CALIBRATED_ON), self.store, self.space.gates
        )
        self.undefended = make_defences(["none"], self.classifier, None)[0]

    def run(self, stage: str, wanted: Sequence[Candidate]) -> dict[Candidate | None, Found] | None:
        """What is found of the candidates, and of undefended CLIP under None; None of a shard."""
        pictures, attacks = STAGES[stage]
        budget = dataclasses.replace(
            BUDGETS["quick"], transfer={"pgd-10": {}}, predicted=(), adaptive=attacks, on_request=()
        )
        configs = [self.space.config_of(candidate, self.thresholds) for candidate in wanted]
        suite: list[Defence] = [
            self.undefended,
            *(defence_of(c.name, config, self.classifier) for c, config in zip(wanted, configs, strict=True)),
        ]
        levels = (EPS,) if attacks else (EPS, LARGER_EPS)
        plans = {eps: planned(budget, None, eps) for eps in levels}
        shard = self.shard if stage == self.stage else None
        task = self.bar.add_task(stage, total=None)
        runner = Runner(
            images=_first(self.images, pictures),
            store=self.store,
            device=self.classifier.device,
            chunk=self.chunk,
            seed=0,
            seeds=1,
            tick=lambda done: self.bar.advance(task, done),
        )
        self.bar.update(task, total=work(runner, suite, plans, shard))
        results = attack_defences(runner, suite, plans, shard=shard)
        self.bar.remove_task(task)
        if results is None:
            return None
        return {
            candidate: found_of(results, system, config)
            for candidate, system, config in zip(
                [None, *wanted], results.systems, [None, *configs], strict=True
            )
        }


def _classifier(
    options: argparse.Namespace, classnames: Sequence[str], templates: Sequence[Any]
) -> DefendedClassifier:
    if options.model in BUNDLED:
        return DefendedClassifier.bundled(options.model, classnames)
    return DefendedClassifier.from_open_clip(
        options.model, options.pretrained, classnames, templates=templates
    )


def _first(images: Images, n: int) -> Images:
    return Images(images.names[:n], images.pixels[:n], images.labels[:n], ())


def _rest(images: Images, n: int) -> Images:
    return Images(images.names[n:], images.pixels[n:], images.labels[n:], ())


def table(found: Mapping[Candidate | None, Found], chosen: Candidate | None) -> Table:
    """A row a candidate, the best in the worst case first."""
    shown = Table(title="percent right on the development pictures; encoder passes an image")
    headings = ("gate", "counterattack", "answer", "clean", "PGD-10 2/255", "4/255", "adaptive 2/255")
    for heading in (*headings, "passes clean", "10 % attacked", "countered"):
        shown.add_column(heading, justify="left" if heading in headings[:3] else "right")

    def order(item: tuple[Candidate | None, Found]) -> tuple[float, float]:
        return share_right(item[1]), item[1].attacked[EPS]

    for candidate, one in sorted(found.items(), key=order, reverse=True):
        names = ("undefended", "", "") if candidate is None else tuple(candidate)
        shown.add_row(
            *names,
            f"{100 * one.clean:.1f}",
            *(f"{100 * one.attacked[eps]:.1f}" for eps in (EPS, LARGER_EPS)),
            "" if one.worst is None else f"{100 * one.worst.mean():.1f} of {len(one.worst)}",
            f"{one.passes_clean:.2f}",
            f"{one.passes_mixed:.2f}",
            f"{one.passes_countered}",
            style="bold" if candidate is not None and candidate == chosen else None,
        )
    return shown


def draw(
    found: Mapping[Candidate | None, Found], chosen: Candidate | None, gates: Iterable[str], path: Path
) -> None:
    """Accuracy in the adaptive worst case against mean passes, clean traffic and 10 % attacked."""
    from matplotlib.figure import Figure

    attacked = {c: one for c, one in found.items() if one.worst is not None}
    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, which, title in zip(
        axes, ("passes_clean", "passes_mixed"), ("clean traffic", "10 % attacked"), strict=True
    ):
        for gate in (None, *gates):
            points = [
                (getattr(one, which), 100 * one.worst.mean())
                for c, one in attacked.items()
                if one.worst is not None and (None if c is None else c.gate) == gate
            ]
            if points:
                axis.scatter(*zip(*points, strict=True), label=gate or "undefended", alpha=0.7)
        if chosen is not None and (one := attacked[chosen]).worst is not None:
            point = getattr(one, which), 100 * one.worst.mean()
            axis.scatter(*point, s=160, facecolors="none", edgecolors="black")
            axis.annotate(chosen.name, point, xytext=(0, -18), textcoords="offset points", ha="right")
        axis.set_xlabel(f"encoder passes an image, {title}")
    axes[0].set_ylabel("right in the adaptive worst case at 2/255, %")
    axes[0].legend(frameon=False, title="gate")
    figure.savefig(path, dpi=144)


def main() -> None:
    """Searches, prints the table, and writes pareto.json and pareto.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", default="drawn")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--model", default="drawn")
    parser.add_argument("--pretrained")
    parser.add_argument("--bars", choices=BARS, default="drawn", help="what is asked of a combination")
    parser.add_argument("--chunk", type=int, default=25)
    parser.add_argument("--stage", choices=STAGES, help="with --shard: which of them is made")
    parser.add_argument("--shard", type=parse_shard, help="i/n: make every n-th chunk's parts, no report")
    options = parser.parse_args()
    warnings.simplefilter("ignore", UncalibratedWarning)
    with ProgressBar(TaskProgressColumn()) as bar:
        search = Search(options, bar)
        found = searched(search)
    if found is None:
        return
    chosen = recommended(found, search.bars)
    console = Console(width=150)
    console.print(table(found, chosen))
    console.print(f"recommended: {'none' if chosen is None else chosen.name}")
    write(options.out, search, found, chosen)


def searched(search: Search) -> dict[Candidate | None, Found] | None:
    """All three stages: figures under transfer, and the worst case of the last round; None of a shard."""
    everyone = list(search.space.candidates())
    found = search.run("transfer", everyone)
    if found is None:
        return None
    eligible = [
        c
        for c in everyone
        if found[c].eligible(found[None], search.bars) and (c.gate == "every" or c == c.without_counterattack)
    ]
    first = search.run("first", eligible)
    if first is None:
        return None
    best = sorted(eligible, key=lambda candidate: share_right(first[candidate]), reverse=True)[:BEST]
    second = search.run("second", list(dict.fromkeys([*best, *search.space.compared])))
    if second is None:
        return None
    for candidate, one in (first | second).items():
        found[candidate] = found[candidate]._replace(worst=one.worst)
    return found


def share_right(one: Found) -> float:
    """In the worst case."""
    return -1.0 if one.worst is None else float(one.worst.mean())


def write(
    out: Path, search: Search, found: Mapping[Candidate | None, Found], chosen: Candidate | None
) -> None:
    """pareto.json, with what the rule chose, and its picture."""
    rows = []
    for candidate, one in found.items():
        row = one._asdict() | {"candidate": None if candidate is None else list(candidate)}
        row["attacked"] = {level(eps): share for eps, share in one.attacked.items()}
        row["worst"] = None if one.worst is None else one.worst.astype(int).tolist()
        rows.append(row)
    values = {
        "versions": {"torch": torch.__version__},
        "stages": {name: stage._asdict() for name, stage in STAGES.items()},
        "thresholds": search.thresholds,
        "recommended": None if chosen is None else list(chosen),
        "config": None
        if chosen is None
        else json.loads(search.space.config_of(chosen, search.thresholds).to_json()),
        "rows": rows,
    }
    (out / "pareto.json").write_text(json.dumps(values, indent=1) + "\n")
    draw(found, chosen, search.space.gates, out / "pareto.png")


if __name__ == "__main__":
    main()
