"""The command line: `clipfast classify`, `clipfast demo` and `clipfast bench`."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from . import __version__
from .config import CounterattackConfig
from .errors import ArtifactError, InputError, UncalibratedWarning, names_extra
from .preprocess import Preprocess, image_files

if TYPE_CHECKING:
    from .artifact import ArtifactClassifier
    from .classifier import DefendedClassifier
    from .prediction import Prediction

app = typer.Typer(
    name="clipfast",
    help="CLIP, defended at inference against adversarial perturbations (TTC).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
_err = Console(stderr=True)
_out = Console()


class Precision(StrEnum):
    """Number formats of the large products."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


def main() -> None:
    """Runs the command line; problems with the input end it with a message and exit code 2."""
    try:
        app()
    except (InputError, ArtifactError) as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        _fail(str(names_extra("this command", error)))


def _fail(message: str) -> NoReturn:
    _err.print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    sys.exit(2)


def _version(value: bool) -> None:
    if value:
        print(f"clipfast {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens to stderr.")] = False,
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")


@app.command()
def classify(
    images: Annotated[
        list[Path], typer.Argument(help="Image files, or folders of them.", show_default=False)
    ],
    artifact: Annotated[
        Path | None, typer.Option(help="An exported classifier: .onnx (needs no torch), .ts.pt or .pt2.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the code that an artifact of .ts.pt or .pt2 brings.")
    ] = False,
    classnames: Annotated[
        str | None,
        typer.Option(help="Class names: a,b,c or a file with one a line. Default: the bundled model's."),
    ] = None,
    templates: Annotated[
        Path | None, typer.Option(help="File with one prompt template a line, each with {}.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="open_clip model name, or hf-hub:org/repo. Default: the bundled model.")
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="open_clip tag, or a local .safetensors or .pt file.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Counterattack settings as JSON.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    device: Annotated[
        str, typer.Option(help="auto (the first GPU, else the CPU), cpu, cuda, cuda:1, ...")
    ] = "auto",
    precision: Annotated[Precision, typer.Option()] = Precision.fp32,
    seed: Annotated[int | None, typer.Option(help="Makes the answers reproducible.")] = None,
    topk: Annotated[int, typer.Option(min=1, help="How many classes to list for each image.")] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line instead of a table.")
    ] = False,
) -> None:
    """Classify image files, defended. Exit code 1 if a file could not be read; the rest go on."""
    files: list[Path] = []
    failed = 0
    for path in images:
        try:
            files.extend(image_files([path]))
        except InputError as error:
            failed += 1
            _err.print(f"[red]skipped[/] {escape(str(error))}", highlight=False, soft_wrap=True)
    if not files:
        raise typer.Exit(1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UncalibratedWarning)
        if artifact is None:
            if trust:
                raise InputError("--trust needs --artifact, the file that is trusted")
            classifier = _classifier(model, pretrained, classnames, templates, config, device, precision)
        else:
            settled = {
                "--classnames": classnames,
                "--templates": templates,
                "--model": model,
                "--pretrained": pretrained,
                "--config": config,
                "--precision": None if precision is Precision.fp32 else precision,
            }
            classifier = _from_artifact(artifact, trust, device, settled)
    for warning in caught:
        _err.print(f"[yellow]warning:[/] {escape(str(warning.message))}", highlight=False, soft_wrap=True)
    table = Table("image", "class", "probability", "drift", "countered", "changed the answer")
    done = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_err, transient=True, disable=len(files) < 16) as progress:
        task = progress.add_task("classifying", total=len(files))
        for good, pixels, bad in _batches(classifier.preprocess, files, batch_size):
            for error in bad:
                progress.console.print(
                    f"[red]skipped[/] {escape(str(error))}", highlight=False, soft_wrap=True
                )
            failed += len(bad)
            if good:
                prediction = _predict(classifier, pixels, seed=seed, first_image=done)
                done += len(good)
                for row in _rows(good, prediction, topk):
                    print(json.dumps(row)) if as_json else _add(table, row)
            progress.advance(task, len(good) + len(bad))
    if not as_json:
        _out.print(table)
        stats = classifier.stats()
        _out.print(f"{stats.images} images, {stats.countered} countered, {stats.changed} answers changed")
    if failed:
        _err.print(f"{failed} of {done + failed} inputs could not be read", style="red")
        raise typer.Exit(1)


def _classifier(
    model: str | None,
    pretrained: str | None,
    classnames: str | None,
    templates: Path | None,
    config: Path | None,
    device: str,
    precision: Precision,
) -> DefendedClassifier:
    from .classifier import DefendedClassifier
    from .models.loading import brings_weights

    options: dict[str, Any] = {"device": _checked_device(device), "precision": precision.value}
    if templates is not None:
        options["templates"] = _lines(templates)
    if config is not None:
        options["config"] = CounterattackConfig.from_json(_read(config))
    names = None if classnames is None else _names(classnames)
    if model is None:
        if pretrained is not None:
            raise InputError(f"--pretrained {pretrained} needs --model, the name of its architecture")
        return DefendedClassifier.bundled(names, **options)
    if pretrained is None and not brings_weights(model):
        raise InputError(f"--model {model} needs --pretrained: a tag of open_clip or a file of weights")
    if names is None:
        raise InputError(f"--model {model} needs --classnames: a,b,c or a file with one a line")
    return DefendedClassifier.from_open_clip(model, pretrained, names, **options)


def _from_artifact(
    artifact: Path, trust: bool, device: str, settled: dict[str, object]
) -> ArtifactClassifier:
    """Reads an exported file; `settled` are the options that it leaves no choice in, None if not given."""
    from .runtime import load_artifact

    for option, value in settled.items():
        if value is not None:
            raise InputError(f"--artifact {artifact} does not go with {option}: the file settles it")
    if device == "auto":
        return load_artifact(artifact, trust=trust)
    if artifact.suffix == ".onnx":
        raise InputError(f"--artifact {artifact} does not go with --device: onnxruntime chooses it")
    return load_artifact(artifact, trust=trust, device=_checked_device(device))


def _names(value: str) -> list[str]:
    """Class names from a file with one a line, or from a,b,c."""
    try:
        if Path(value).is_file():
            return _lines(Path(value))
    except OSError:  # a list longer than a file's name may be
        pass
    if "," not in value and Path(value).suffix.lower() in (".txt", ".csv", ".json", ".names"):
        raise InputError(f"expected class names a,b,c or a file with one a line; there is no file {value}")
    return [name.strip() for name in value.split(",")]


def _checked_device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        raise InputError(f"no device {name!r} here; there is: {', '.join(['cpu', *cuda])}") from error
    return name


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in _read(path).splitlines() if line.strip()]


def _batches(
    preprocess: Preprocess, files: list[Path], size: int
) -> Iterator[tuple[list[Path], NDArray[Any], list[InputError]]]:
    """(readable files, their pixels, the errors of the others), up to `size` files at a time."""
    rest = iter(files)
    while chunk := list(islice(rest, size)):
        good: list[Path] = []
        arrays: list[NDArray[Any]] = []
        bad: list[InputError] = []
        for path in chunk:
            try:
                arrays.append(preprocess(path))
                good.append(path)
            except InputError as error:
                bad.append(error)
        yield good, np.stack(arrays) if arrays else preprocess.batch([]), bad


def _predict(
    classifier: DefendedClassifier | ArtifactClassifier, pixels: NDArray[Any], **options: Any
) -> Prediction[Any]:
    from .artifact import ArtifactClassifier

    if isinstance(classifier, ArtifactClassifier):
        return classifier.predict(pixels, **options)
    import torch

    return classifier.predict(torch.from_numpy(pixels), **options)


def _rows(files: list[Path], prediction: Prediction[Any], topk: int) -> Iterator[dict[str, Any]]:
    drift, countered = prediction.drift.tolist(), prediction.countered.tolist()
    changed, best = prediction.changed.tolist(), prediction.topk(topk)
    undefended = prediction.undefended_logits.argmax(1).tolist()
    for i, path in enumerate(files):
        yield {
            "image": str(path),
            "class": best[i][0][0],
            "probability": best[i][0][1],
            "topk": [{"class": name, "probability": probability} for name, probability in best[i]],
            "drift": drift[i],
            "countered": countered[i],
            "changed": changed[i],
            "undefended_class": prediction.classnames[undefended[i]],
            "calibrated": prediction.calibrated,
        }


def _add(table: Table, row: dict[str, Any]) -> None:
    changed = f"yes, from {row['undefended_class']}" if row["changed"] else "no"
    table.add_row(
        escape(row["image"]),
        "\n".join(escape(entry["class"]) for entry in row["topk"]),
        "\n".join(f"{entry['probability']:.3f}" for entry in row["topk"]),
        f"{row['drift']:.4f}",
        "yes" if row["countered"] else "no",
        escape(changed),
    )


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures and the page.")] = Path("demo-out"),
    images: Annotated[int, typer.Option(min=8, help="How many pictures to draw.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Other seeds draw other pictures.")] = 0,
) -> None:
    """Draw pictures, attack them, and classify them with and without the defence (bundled model)."""
    from .demo import run

    run(out, images=images, seed=seed, console=_out)


@app.command()
def bench(
    out: Annotated[Path, typer.Option(help="File for the figures, JSON; written as they come.")] = Path(
        "bench.json"
    ),
    plot: Annotated[Path | None, typer.Option(help="File for the plot, PNG, SVG or PDF.")] = None,
    quick: Annotated[
        bool, typer.Option(help="Three scenarios in a few minutes, not all in an hour.")
    ] = False,
    exports: Annotated[
        bool, typer.Option(help="Exported files against the reference, on the CPU, and not the engine.")
    ] = False,
    show: Annotated[
        Path | None, typer.Option(help="Only print and draw the figures of this earlier run.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of every column.")] = 2,
) -> None:
    """Measure the engine against the reference and undefended CLIP, on random weights."""
    from .bench.report import draw, tables
    from .bench.run import run, write_json

    if show is not None:
        try:
            result = json.loads(_read(show))
        except json.JSONDecodeError as error:
            raise InputError(f"expected the JSON of an earlier run in {show}: {error}") from error
    else:
        with _err.status("starting") as status:
            result = run(
                device=_checked_device(device),
                threads=threads,
                quick=quick,
                exports=exports,
                progress=lambda message: status.update(escape(message)),
                save=lambda result: write_json(result, out),
            )
    for table in tables(result):
        _out.print(table)
    if plot is not None:
        draw(result, plot)
