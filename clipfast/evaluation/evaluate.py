"""An evaluation from start to end: data, model, defences, a folder of finished parts, and the report."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from .. import __version__
from ..attacks.levels import level
from ..classifier import DefendedClassifier
from ..config import CounterattackConfig
from ..errors import InputError
from ..measurement.interleave import interleaved
from ..models.loading import check_weights_named
from .attacking import attack_defences, work
from .budgets import budget_of
from .controls import controls
from .curves import curve_work, curves, make_curve_parts
from .datasets import PAPER, Dataset, Images, find_dataset
from .defences import Defence, make_defences, usual_defences
from .model_pair import ModelPair
from .planned_attacks import planned
from .report import write_csv, write_json, write_page, write_summary
from .results import Results
from .runner import Runner
from .store import Store, check_same, digest

__all__ = ["EvaluationRequest", "Progress", "evaluate_request"]

_TIMED = 32  # images that speed is measured on


class Progress(Protocol):
    """Is told of a run while it goes on."""

    def start(self, description: str, total: float) -> None:
        """Begins a stretch of work.

        Args:
            description: What is done in it.
            total: How much work it is.
        """
        ...

    def advance(self, done: float) -> None:
        """Reports that some of the stretch's work is done.

        Args:
            done: How much, in the unit of `total`.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """What is to be evaluated, as the command line says it.

    Attributes:
        data: A data set's name, a folder, or "paper" for the paper's sixteen data sets, each of which is
            then written below its own name in `out`.
        out: The folder of the report and of the finished parts.
        root: The folder that a named data set lies in, see `find_dataset`.
        split: The split of a named data set, see `find_dataset`.
        download: Whether a named data set may be downloaded, see `find_dataset`.
        model: open_clip's name of the model, or a bundled model's.
        pretrained: open_clip's name of the weights, or a file of them; None for a model that brings its
            own.
        checkpoint: The image tower of the model's fine-tuned twin.
        config: Takes the place of the published settings if it is of their kind, else of the recommended
            ones.
        attacks: Names of attacks; None for the budget's usual ones, see `planned`.
        defences: Names of defences; None for those of `usual_defences`.
        eps: l-inf budgets in [0, 1] pixel units, at least one, each once.
        budget: The name of a budget.
        images: How many images are drawn, at least 1; None for the budget's number.
        seed: Of the images drawn, the attacks and the noise.
        seeds: Rounds of noise, at least 1.
        device: Where the model runs.
        chunk: How many images are attacked at a time, at least 1.
        shard: (i, n), to make only the parts of each n-th chunk, from the i-th on, 0 <= i < n; None for
            all.
        parts_from: Folders of the same evaluation, whose finished parts are taken over.
    """

    data: str
    out: Path
    root: Path | None = None
    split: str | None = None
    download: bool = False
    model: str = "drawn"
    pretrained: str | None = None
    checkpoint: Path | None = None
    config: CounterattackConfig | None = None
    attacks: Sequence[str] | None = None
    defences: Sequence[str] | None = None
    eps: Sequence[float] = (1 / 255,)
    budget: str = "quick"
    images: int | None = None
    seed: int = 0
    seeds: int = 1
    device: str = "cpu"
    chunk: int = 50
    shard: tuple[int, int] | None = None
    parts_from: Sequence[Path] = ()


def evaluate_request(request: EvaluationRequest, progress: Progress) -> dict[str, Results] | None:
    """Evaluates on each data set and writes its report.

    A report is results.json, results.csv and index.html; several data sets also have summary.csv. A run
    that was stopped goes on where it was. On one data set, all that does not fit together is found before
    anything is attacked.

    Args:
        request: What is to be evaluated.
        progress: Is told how it goes on.

    Returns:
        The results by the names of data sets; None for a shard, which has no report.

    Raises:
        InputError: If parts of the request do not fit together, if data, model or checkpoint cannot be
            loaded, if a folder holds another evaluation, or if a file cannot be written.
        ModuleNotFoundError: If a data set needs a package that is not installed; names the extra that has
            it.
    """
    _check(request)
    sources = PAPER if request.data == "paper" else (request.data,)
    find = partial(find_dataset, root=request.root, split=request.split, download=request.download)
    found = [find(source) for source in sources]
    models = ModelPair(
        request.model, request.pretrained, request.checkpoint, config=request.config, device=request.device
    )
    results = {
        dataset.name: _evaluated(
            request, dataset, models, progress, below=dataset.name if len(found) > 1 else ""
        )
        for dataset in found
    }
    if request.shard is not None:
        return None
    gathered = {name: result for name, result in results.items() if result is not None}
    if len(gathered) > 1:
        write_summary(gathered, request.out / "summary.csv")
    return gathered


def _check(request: EvaluationRequest) -> None:
    budget = budget_of(request.budget)
    if not request.eps:
        raise InputError("expected at least one eps, got none")
    levels = [level(eps) for eps in request.eps]
    if len(set(levels)) < len(levels):
        raise InputError(f"expected each eps once, got {', '.join(levels)}")
    planned(budget, request.attacks, request.eps[0])
    for name in ("images", "seeds", "chunk"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise InputError(f"expected {name} of at least 1, got {value}")
    if request.shard is not None and not 0 <= request.shard[0] < request.shard[1]:
        raise InputError(
            f"expected a shard i/n with 1 <= i <= n, got {request.shard[0] + 1}/{request.shard[1]}"
        )
    if request.model == "drawn" and request.data != "drawn":
        raise InputError(f"--data {request.data} needs --model: the usual one knows drawn shapes alone")
    check_weights_named(request.model, request.pretrained)


def _evaluated(
    request: EvaluationRequest, dataset: Dataset, models: ModelPair, progress: Progress, *, below: str
) -> Results | None:
    """Evaluates on one data set; below: its folder in those that are written and taken over."""
    out, parts_from = request.out / below, [folder / below for folder in request.parts_from]
    classifier, twin = models.classifiers(dataset)
    usual = usual_defences(models.recommended, with_twin=twin is not None)
    suite = make_defences(
        usual if request.defences is None else request.defences,
        classifier,
        twin,
        recommended=models.recommended,
    )
    budget, classes = budget_of(request.budget), len(classifier.classnames)
    plans = {eps: planned(budget, request.attacks, eps, classes=classes) for eps in request.eps}
    wanted = request.images or budget.images
    progress.start(f"{dataset.name}: reading pictures", min(wanted, len(dataset)))
    images = dataset.take(
        classifier.preprocess, wanted, seed=request.seed, progress=lambda: progress.advance(1)
    )
    identity = _identity(request, dataset, images, classifier, suite[0].identity["weights"])
    for folder in parts_from:
        check_same(folder, identity)
    store = Store(out, identity, alone=True)
    store.take_from(parts_from)
    runner = Runner(
        images=images,
        store=store,
        device=classifier.device,
        chunk=request.chunk,
        seed=request.seed,
        seeds=request.seeds,
        tick=progress.advance,
    )
    progress.start(f"{dataset.name}: attacking", work(runner, suite, plans, request.shard))
    results = attack_defences(runner, suite, plans, shard=request.shard)
    progress.start(
        f"{dataset.name}: curves and controls",
        curve_work(runner, suite, budget, request.eps[0], request.shard),
    )
    if results is None:
        make_curve_parts(runner, suite, budget, request.eps[0], request.shard)
        return None
    results.by_eps, results.by_samples = curves(runner, suite, budget, request.eps[0])
    results.controls = controls(runner, suite, budget, results)
    _time(runner, suite, results)
    results.run = {
        **identity,
        "budget": budget.name,
        "skipped": [list(skipped) for skipped in images.skipped],
        "settings": {
            "attacks": {p.column.key: repr(p.attack) for plan in plans.values() for p in plan},
            "curves": {**budget.curve, "images": budget.curve_images},
            "defences": {defence.system.name: defence.identity["config"] for defence in suite},
        },
    }
    write_json(results, out / "results.json")
    write_csv(results, out / "results.csv")
    write_page(results, out)
    return results


def _identity(
    request: EvaluationRequest,
    dataset: Dataset,
    images: Images,
    classifier: DefendedClassifier,
    weights_sha256: str,
) -> dict[str, Any]:
    """Returns what all figures of a folder share; attacks, defences and budgets may be added later."""
    return {
        "model": request.model,
        "pretrained": request.pretrained,
        "weights_sha256": weights_sha256,
        "data": dataset.name,
        "images": len(images),
        "pixels_sha256": digest({}, images.pixels.numpy(), images.labels.numpy()),
        "calibrated": classifier.calibrated,
        "templates": list(dataset.templates),
        "versions": {"clipfast": __version__, "torch": torch.__version__},
        "device": classifier.device.type,
        "seed": request.seed,
        "seeds": request.seeds,
        "chunk": request.chunk,
    }


def _time(runner: Runner, suite: Sequence[Defence], results: Results) -> None:
    """Notes images a second on clean pictures and time over undefended; the systems take turns."""
    x = runner.clean(slice(0, min(_TIMED, len(runner.images))))
    description = {
        "part": "seconds",
        "defences": [defence.identity for defence in suite],
        "n": len(x),
        "machine": [platform.node(), torch.get_num_threads()],
    }

    def measure() -> dict[str, np.ndarray]:
        runs: list[Callable[[], object]] = [
            partial(defence.system.answer, x, seed=runner.seed) for defence in suite
        ]
        with torch.no_grad():
            return {"seconds": np.array(interleaved(runs))}

    seconds = runner.store.get(digest(description), measure)["seconds"].tolist()
    for result, taken in zip(results.systems, seconds, strict=True):
        result.images_per_second, result.cost = len(x) / taken, taken / seconds[0]
