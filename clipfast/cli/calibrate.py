"""`clipfast calibrate`."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from numpy.typing import NDArray
from rich.markup import escape
from rich.progress import MofNCompleteColumn
from rich.table import Table

from ..config import CounterattackConfig, Preset
from ..errors import InputError, UncalibratedWarning
from ..files import check_place, write_text
from . import options
from .console import ProgressBar, stdout, tell_skipped
from .reading import batches

if TYPE_CHECKING:
    from ..calibration.threshold import Calibration

__all__ = ["command"]


def command(
    clean: Annotated[Path, typer.Option(help="Folder of clean pictures.", show_default=False)],
    attacked: Annotated[Path | None, typer.Option(help="Folder of attacked pictures.")] = None,
    attack: Annotated[
        Literal["pgd"] | None, typer.Option(help="Attack the clean pictures: PGD-10, undefended model.")
    ] = None,
    eps: Annotated[
        str | None, typer.Option(help="l-inf budget of the attack, in [0, 1] pixel units. [default: 1/255]")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Share of clean pictures that may be countered. [default: 0.05]")
    ] = None,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="The best balanced accuracy of telling clean from attacked.")
    ] = False,
    labels: Annotated[
        bool, typer.Option("--labels", help="Folders are named as the classes: report accuracy too.")
    ] = False,
    gates: Annotated[
        Literal["all"] | None,
        typer.Option(
            help="Compare all gates, and set the threshold of the settings' own if it separates, else of the "
            "best; needs attacked pictures."
        ),
    ] = None,
    early: Annotated[
        int | None,
        typer.Option(
            help="Block of the image tower after which steady pictures pass: a cheaper agreement gate, whose "
            "second threshold is set too. Needs attacked pictures. Default of the settings: the gate "
            "agreement, blur.",
            show_default=False,
        ),
    ] = None,
    attacked_share: Annotated[
        float, typer.Option(min=0, max=1, help="Of the traffic that the expected cost is for.")
    ] = 0.0,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File for the settings, JSON; a report is written beside it.")
    ] = Path("counterattack.json"),
    plot: Annotated[Path | None, typer.Option(help="File for a picture of drift and ROC, SVG.")] = None,
    classnames: options.Classnames = None,
    templates: options.Templates = None,
    model: options.ModelName = None,
    pretrained: options.Pretrained = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Fine-tuned image tower; drift is measured by the original.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Settings as JSON whose threshold is set anew. Default: as for classify."),
    ] = None,
    preset: Annotated[
        Preset | None,
        typer.Option(
            help="Settings by name. Default: published; with --gates all recommended, given a gate."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    device: options.AnyDevice = "auto",
    precision: options.EnginePrecision = "fp32",
    seed: Annotated[int, typer.Option(min=0, help="Of the noise and the attack.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report, JSON, instead of a table.")
    ] = False,
) -> None:
    """Set the gate's threshold on your pictures, for your model. Clean pictures alone will do."""
    from ..attacks.levels import parse_level
    from ..calibration.calibrating import CalibrationRequest, calibrate_folders
    from ..calibration.gates import calibrate_gates, plot_gates, recommended_gate
    from ..calibration.plot import plot as drawn
    from ..calibration.threshold import write_calibration

    if eps is not None and attack is None:
        raise InputError(f"--eps {eps} needs --attack, whose budget it is")
    if early is not None and gates is not None:
        raise InputError("expected --early or --gates, got both: compare the gates first")
    request = CalibrationRequest(
        clean=clean,
        attacked=attacked,
        attack_eps=None if attack is None else parse_level(eps or "1/255"),
        rate=rate if balanced or rate is not None else 0.05,
        balanced=balanced,
        labels=labels,
        attacked_share=attacked_share,
        seed=seed,
    )
    for file in (out, plot):
        if file is not None:
            check_place(file)
    if plot is not None and plot.suffix != ".svg":
        raise InputError(f"expected a file named .svg for the plot, got {plot}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UncalibratedWarning)  # it is about to be calibrated
        classifier = options.defended_classifier(
            model=model,
            pretrained=pretrained,
            classnames=classnames,
            templates=templates,
            config=config,
            preset=_base(gates) if preset is None and config is None else preset,
            device=device,
            precision=precision,
            checkpoint=checkpoint,
        )
        if early is not None:
            classifier = classifier.with_config(_with_early(classifier.config, early, config, preset))
    with ProgressBar(MofNCompleteColumn()) as bar:
        task = bar.add_task("measuring drift")

        def read(files: list[Path]) -> Iterator[tuple[list[Path], NDArray[Any]]]:
            for good, pixels, bad in batches(classifier.preprocess, files, batch_size):
                tell_skipped(bad)
                if good:
                    yield good, pixels
                bar.advance(task, len(good) + len(bad))

        def total(n: int) -> None:
            bar.update(task, total=n)

        if gates is None:
            compared, best = {}, None
            found = calibrate_folders(classifier, request, read, total=total)
        else:
            compared = calibrate_gates(classifier, request, read, total=total)
            best = recommended_gate(compared, classifier.config)
            if plot is not None:
                write_text(plot, plot_gates(compared))
            if best is None:
                _tell_gates(compared)
                raise InputError(
                    "no gate tells attacked pictures from clean ones: expected an AUROC whose interval lies "
                    "above 0.5, got none; no settings were written"
                )
            found = compared[best]
    report = write_calibration(found, out)
    if plot is not None and not compared:
        write_text(plot, drawn(found))
    if as_json and compared:
        print(json.dumps({name: json.loads(one.to_json()) for name, one in compared.items()}, indent=1))
        return
    if as_json:
        print(found.to_json(), end="")
        return
    if compared:
        _tell_gates(compared)
        stdout.print(escape(f"tells them apart best: {best}"), highlight=False)
        stdout.print("Such a gate may be easy to evade: attack it with clipfast eval.", soft_wrap=True)
    table = Table("", "", show_header=False, title=escape(found.rule))
    for name, value in found.figures().items():
        table.add_row(name.replace("_", " "), f"{value:.4g}")
    stdout.print(table)
    if found.separation is not None:
        stdout.print(escape(f"{found.separation}"), highlight=False, soft_wrap=True)
    stdout.print(escape(f"settings: {out}; report: {report}"), highlight=False, soft_wrap=True)


def _with_early(
    settings: CounterattackConfig, early: int, config: Path | None, preset: Preset | None
) -> CounterattackConfig:
    """Settings in which pictures pass early; without any that were named, with a gate that lets them."""
    if config is None and preset is None:
        settings = dataclasses.replace(settings, gate="agreement", pass_through="clean")
    return dataclasses.replace(settings, gate_depth=early, early_threshold=1.0)


def _base(gates: Literal["all"] | None) -> Preset:
    """The preset whose stages are calibrated. The recommended one has no gate of its own."""
    return "published" if gates is None else "recommended"


def _tell_gates(compared: dict[str, Calibration]) -> None:
    table = Table(
        "gate", "threshold", "AUROC", "95 % interval", "clean countered", "attacked", "passes",
        title=f"gates, where {next(iter(compared.values())).rule}",
    )  # fmt: skip
    for name, one in compared.items():
        found, figures = one.separation, one.figures()
        assert found is not None
        table.add_row(
            escape(name),
            f"{figures['tau_threshold']:.4g}",
            f"{found.auroc:.3f}",
            f"{found.interval.low:.3f} to {found.interval.high:.3f}",
            f"{figures['clean_countered']:.1%}",
            f"{figures['attacked_countered']:.1%}",
            f"{figures['forward_passes']:.2f} F + {figures['backward_passes']:.2f} B",
        )
    stdout.print(table)
