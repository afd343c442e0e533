"""The command line: `clipfast classify`, `export`, `verify`, `eval`, `calibrate`, `demo` and `bench`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from . import __version__
from .config import CounterattackConfig
from .errors import ArtifactError, InputError, UncalibratedWarning, VerificationError, names_extra
from .files import read_lines, read_text, write_text
from .preprocess import Preprocess, image_files

if TYPE_CHECKING:
    from .artifacts.base import ArtifactClassifier
    from .artifacts.ports import Port
    from .classifier import DefendedClassifier
    from .exporters import Export
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
_SECONDS_A_LINE = 60.0  # of progress, where stderr is a file


class Precision(StrEnum):
    """Number formats of the large products."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class EvalBudget(StrEnum):
    """How much an evaluation spends."""

    quick = "quick"
    full = "full"


class ExportFormat(StrEnum):
    """Formats of an exported file."""

    onnx = "onnx"
    torchscript = "torchscript"
    aotinductor = "aotinductor"


class ExportProfile(StrEnum):
    """What an exported file takes."""

    serving = "serving"
    lab = "lab"


class ExportPrecision(StrEnum):
    """Number formats of an exported file's large products."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


class CalibrationAttack(StrEnum):
    """Attacks that `calibrate` makes."""

    pgd = "pgd"


class ExportPixels(StrEnum):
    """Number formats of an exported file's pixels."""

    float32 = "float32"
    uint8 = "uint8"


# Options that several commands have.
Classnames = Annotated[
    str | None,
    typer.Option(help="Class names: a,b,c or a file with one a line. Default: the bundled model's."),
]
Templates = Annotated[Path | None, typer.Option(help="File with one prompt template a line, each with {}.")]
ModelName = Annotated[
    str | None, typer.Option(help="open_clip model name, or hf-hub:org/repo. Default: the bundled model.")
]
Pretrained = Annotated[str | None, typer.Option(help="open_clip tag, or a local .safetensors or .pt file.")]
Settings = Annotated[Path | None, typer.Option(help="Counterattack settings as JSON.")]
AnyDevice = Annotated[str, typer.Option(help="auto (the first GPU, else the CPU), cpu, cuda, cuda:1, ...")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]


def main(command: typer.Typer = app) -> None:
    """Runs a command line; problems with the input end it with a message and exit code 2."""
    try:
        command()
    except VerificationError as error:
        _fail(str(error), code=1)
    except (InputError, ArtifactError) as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        _fail(str(names_extra("this command", error)))


def _fail(message: str, *, code: int = 2) -> NoReturn:
    _err.print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    sys.exit(code)


@contextlib.contextmanager
def printed_warnings() -> Iterator[None]:
    """Prints what is warned of inside, each message once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UncalibratedWarning)
        yield
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        _err.print(f"[yellow]warning:[/] {escape(message)}", highlight=False, soft_wrap=True)


def _tell_skipped(errors: Sequence[InputError], console: Console) -> None:
    for error in errors:
        console.print(f"[red]skipped[/] {escape(str(error))}", highlight=False, soft_wrap=True)


class _Bar(Progress):
    """One task's bar with the time left, on stderr, or lines where no terminal shows bars.

    done: the column that says how far it is.
    """

    def __init__(self, done: ProgressColumn, *, disable: bool = False) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), done, TimeRemainingColumn())
        super().__init__(*columns, console=_err, transient=True, disable=disable)
        self._told = time.monotonic()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        if self.disable or self.console.is_terminal or time.monotonic() - self._told < _SECONDS_A_LINE:
            return
        self._told = time.monotonic()
        (task,) = self.tasks
        left = timedelta(seconds=round(task.time_remaining or 0))
        self.console.print(
            f"{escape(task.description)}: {task.percentage:.0f} %, {left} left", highlight=False
        )


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
    classnames: Classnames = None,
    templates: Templates = None,
    model: ModelName = None,
    pretrained: Pretrained = None,
    config: Settings = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    device: AnyDevice = "auto",
    precision: Annotated[Precision, typer.Option()] = Precision.fp32,
    seed: Annotated[int | None, typer.Option(help="Makes the answers reproducible.")] = None,
    topk: Annotated[int, typer.Option(min=1, help="How many classes to list for each image.")] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line instead of a table.")
    ] = False,
) -> None:
    """Classify image files, defended. Exit code 1 if a file could not be read; the rest go on."""

    def make() -> DefendedClassifier | ArtifactClassifier:
        if artifact is None:
            if trust:
                raise InputError("--trust needs --artifact, the file that is trusted")
            return _classifier(model, pretrained, classnames, templates, config, device, precision)
        settled = {
            "--classnames": classnames,
            "--templates": templates,
            "--model": model,
            "--pretrained": pretrained,
            "--config": config,
            "--precision": None if precision is Precision.fp32 else precision,
        }
        return _from_artifact(artifact, trust, device, settled)

    classify_files(images, make, batch_size=batch_size, seed=seed, topk=topk, as_json=as_json)


def classify_files(
    images: Sequence[Path],
    make: Callable[[], DefendedClassifier | ArtifactClassifier],
    *,
    batch_size: int,
    seed: int | None,
    topk: int,
    as_json: bool,
) -> None:
    """Classifies image files and those in folders, and prints a table or a JSON object a line.

    make: gives the classifier; called once there is a file. Reports what cannot be read on stderr, goes on
    with the rest, and raises typer.Exit(1) at the end.
    """
    files: list[Path] = []
    failed = 0
    for path in images:
        try:
            files.extend(image_files([path]))
        except InputError as error:
            failed += 1
            _tell_skipped([error], _err)
    if not files:
        raise typer.Exit(1)
    with printed_warnings():
        classifier = make()
    # Folded, not cut: a path's end is what tells pictures apart.
    image = Column("image", overflow="fold")
    table = Table(image, "class", "probability", "drift", "countered", "changed the answer")
    done = 0
    with _Bar(MofNCompleteColumn(), disable=len(files) < 16) as progress:
        task = progress.add_task("classifying", total=len(files))
        for good, pixels, bad in _batches(classifier.preprocess, files, batch_size):
            _tell_skipped(bad, progress.console)
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
    checkpoint: Path | None = None,
) -> DefendedClassifier:
    from .classifier import DefendedClassifier
    from .models.bundled import BUNDLED, load_bundled
    from .models.loading import brings_weights

    options: dict[str, Any] = {"device": _checked_device(device), "precision": precision.value}
    if templates is not None:
        options["templates"] = read_lines(templates)
    if config is not None:
        options["config"] = CounterattackConfig.from_json(read_text(config))
    names = None if classnames is None else _names(classnames)
    if model is None:
        if pretrained is not None:
            raise InputError(f"--pretrained {pretrained} needs --model, the name of its architecture")
        if checkpoint is None:
            return DefendedClassifier.bundled(names, **options)
        original = load_bundled()
        model, names = BUNDLED, names or list(original.classnames)
        options.setdefault("config", original.config)
    if pretrained is None and not brings_weights(model):
        raise InputError(f"--model {model} needs --pretrained: a tag of open_clip or a file of weights")
    if names is None:
        raise InputError(f"--model {model} needs --classnames: a,b,c or a file with one a line")
    if checkpoint is not None:
        return DefendedClassifier.from_finetuned(model, pretrained, checkpoint, names, **options)
    return DefendedClassifier.from_open_clip(model, pretrained, names, **options)


def _from_artifact(
    artifact: Path, trust: bool, device: str, settled: dict[str, object]
) -> ArtifactClassifier:
    """Reads an exported file; `settled` are the options that it leaves no choice in, None if not given."""
    from .artifacts.formats import load_artifact

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
            return read_lines(Path(value))
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
    from .artifacts.base import ArtifactClassifier

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
def export(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File to write: .onnx, .ts.pt or .pt2.", show_default=False)
    ],
    format: Annotated[ExportFormat | None, typer.Option(help="Default: what the file's name says.")] = None,
    profile: Annotated[
        ExportProfile, typer.Option(help="lab takes noise and thresholds, and gives the perturbation.")
    ] = ExportProfile.serving,
    precision: Annotated[ExportPrecision, typer.Option()] = ExportPrecision.fp32,
    pixels: Annotated[ExportPixels, typer.Option(help="Type of the pixels.")] = ExportPixels.float32,
    batch: Annotated[str, typer.Option(help="Batch size: a number, or dynamic.")] = "dynamic",
    static: Annotated[
        bool,
        typer.Option("--static", help="Batch 1, every shape known, noise as an input: for edge compilers."),
    ] = False,
    opset: Annotated[int, typer.Option(help="Of ONNX.")] = 20,
    tolerance: Annotated[
        float | None, typer.Option(help="Largest difference of undefended logits from the reference.")
    ] = None,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Do not compare the file with the reference.")
    ] = False,
    license: Annotated[str | None, typer.Option(help="Licence of the weights, noted in the file.")] = None,
    classnames: Classnames = None,
    templates: Templates = None,
    model: ModelName = None,
    pretrained: Pretrained = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings as JSON; a calibration's report beside it goes along.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where it is traced: cpu, cuda, cuda:1, ...")] = "cpu",
) -> None:
    """Write the defended classifier as one file. Exit code 1 if it disagrees with the reference."""
    from .artifacts.formats import format_of
    from .calibration.threshold import figures_beside
    from .exporters import export as write

    options: dict[str, Any] = {
        "format": format_of(out).name if format is None else format.value,
        "profile": profile.value,
        "precision": precision.value,
        "pixels": pixels.value,
        "batch": _batch_size(batch),
    }
    with _err.status("loading the model") as status:
        with printed_warnings():
            classifier = _classifier(model, pretrained, classnames, templates, config, device, Precision.fp32)
        figures = figures_beside(config) if config is not None and classifier.calibrated else None
        exported = write(
            classifier,
            out,
            calibration=figures,
            static=static,
            opset=opset,
            license=license,
            verify=not no_verify,
            tolerance=tolerance,
            progress=lambda message: status.update(escape(message)),
            **options,
        )
    if exported.verification is not None:
        _out.print(exported.verification.table())
    _describe(exported)


def _batch_size(value: str) -> int | None:
    if value == "dynamic":
        return None
    if value.isascii() and value.isdigit() and int(value) > 0:
        return int(value)
    raise InputError(f"--batch must be a positive number or dynamic, got {value!r}")


def _describe(exported: Export) -> None:
    size = sum(file.stat().st_size for file in _parts(exported.path))
    inputs, outputs = exported.metadata.ports
    for line in (
        f"{exported.path}: {size / 1e6:.1f} MB, profile {exported.metadata.profile}",
        f"inputs: {_listed(inputs)}",
        f"outputs: {_listed(outputs)}",
        f"sha256: {_digest(exported.path)}",
    ):
        _out.print(escape(line), highlight=False, soft_wrap=True)


def _listed(ports: Sequence[Port]) -> str:
    return ", ".join(
        f"{port.name} {port.dtype} [{', '.join('N' if size is None else str(size) for size in port.shape)}]"
        for port in ports
    )


def _parts(file: Path) -> list[Path]:
    """An exported file, and the data file of large ONNX weights beside it."""
    data = file.with_name(f"{file.name}.data")
    return [file, data] if data.exists() else [file]


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    for part in _parts(file):
        with part.open("rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="An exported classifier.", show_default=False)],
    against: Annotated[
        str | None, typer.Option(help="open_clip model name. Default: the one that the file names.")
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="open_clip tag or file of weights. Default: those that the file names.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of pictures. Default: drawn ones.")] = None,
    sha256: Annotated[
        str | None,
        typer.Option(
            help="Digest that FILE must have, checked before it is read; of FILE and FILE.data one after the "
            "other where there is such a file (cat FILE FILE.data | sha256sum)."
        ),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the code that a file of .ts.pt or .pt2 brings.")
    ] = False,
    device: Device = "cpu",
) -> None:
    """Compare an exported file with the reference. Exit code 1 if they disagree."""
    from .artifacts.base import check_file
    from .artifacts.formats import load_artifact
    from .exporters import verify as compare
    from .verification.rebuilding import rebuilt

    check_file(file)
    if sha256 is not None and (digest := _digest(file)) != sha256.strip().lower():
        raise ArtifactError(f"{file}: expected the SHA-256 {sha256}, got {digest}")
    device = _checked_device(device)
    with _err.status("loading the model") as status:
        with printed_warnings():
            options = {} if file.suffix == ".onnx" else {"device": device}
            metadata = load_artifact(file, trust=trust, **options).metadata
            classifier = rebuilt(metadata, model_name=against, pretrained=pretrained, device=device)
        verification = compare(
            file,
            classifier,
            images=None if images is None else classifier.preprocess.batch(image_files([images])),
            trust=trust,
            progress=lambda message: status.update(escape(message)),
        )
    _out.print(verification.table())
    if not verification.agrees:
        raise VerificationError(f"{file} disagrees with the reference: {verification.failures}")
    _out.print(f"{escape(str(file))} agrees with the reference", highlight=False, soft_wrap=True)


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
    device: Device = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of every column.")] = 2,
) -> None:
    """Measure the engine against the reference and undefended CLIP, on random weights."""
    from .bench.report import draw, tables
    from .bench.run import run, write_json

    if show is not None:
        try:
            result = json.loads(read_text(show))
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


@app.command("eval")
def evaluate(
    data: Annotated[
        str,
        typer.Option(
            help="A data set by name, a folder of class folders, or paper for the sixteen of the paper."
        ),
    ] = "bundled",
    root: Annotated[Path | None, typer.Option(help="Folder that the named data sets lie in.")] = None,
    split: Annotated[str | None, typer.Option(help="Default: the one that the paper evaluates.")] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Let torchvision download to --root what is missing.")
    ] = False,
    model: ModelName = None,
    pretrained: Pretrained = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Fine-tuned image tower, for the defences twin and ttc-twin.")
    ] = None,
    config: Settings = None,
    attacks: Annotated[
        str | None,
        typer.Option(
            help="Names a,b,c. Default: the budget's; quick leaves out targeted, apgd-eot, black-box."
        ),
    ] = None,
    defences: Annotated[
        str | None, typer.Option(help="Names a,b,c; the twin's need --checkpoint. Default: all.")
    ] = None,
    eps: Annotated[str, typer.Option(help="l-inf budgets of the attacks: 1/255,4/255.")] = "1/255",
    budget: Annotated[EvalBudget, typer.Option(help="quick gives upper bounds.")] = EvalBudget.quick,
    images: Annotated[
        int | None, typer.Option(min=1, help="How many are drawn. Default: the budget's.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Rounds of noise that a defence answers in.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of pictures, attacks and noise.")] = 0,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the report; resumed if it is there.")
    ] = Path("eval-out"),
    shard: Annotated[str | None, typer.Option(help="i/n: make every n-th chunk's parts, no report.")] = None,
    parts_from: Annotated[
        list[Path] | None, typer.Option("--from", help="Take over the parts of this folder, of a shard.")
    ] = None,
    chunk: Annotated[int, typer.Option(min=1, help="Images attacked at a time.")] = 50,
    device: AnyDevice = "auto",
) -> None:
    """Measure defences: clean, under transfer attacks, and under attackers who know them. Resumable."""
    from .attacks.levels import parse_level
    from .evaluation.evaluate import Request, run
    from .evaluation.report import summaries

    request = Request(
        data=data,
        out=out,
        root=root,
        split=split,
        download=download,
        model=model,
        pretrained=pretrained,
        checkpoint=checkpoint,
        config=None if config is None else CounterattackConfig.from_json(read_text(config)),
        attacks=_listed_names(attacks),
        defences=_listed_names(defences),
        eps=[parse_level(text) for text in eps.split(",")],
        budget=budget.value,
        images=images,
        seed=seed,
        seeds=seeds,
        device=_checked_device(device),
        chunk=chunk,
        shard=None if shard is None else _shard(shard),
        parts_from=parts_from or [],
    )
    with _Bar(TaskProgressColumn()) as progress:
        results = run(request, _Stretches(progress))
    if results is None:
        _out.print(f"parts in {escape(str(out))}; gather them with --from {escape(str(out))}", soft_wrap=True)
        return
    for printed in summaries(results, width=_out.width):
        _out.print(printed)
    _out.print(f"report: {escape(str(out))}", highlight=False, soft_wrap=True)


class _Stretches:
    """An evaluation's stretches of work: one bar after another."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def start(self, description: str, total: float) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(description, total=total)

    def advance(self, done: float) -> None:
        assert self._task is not None
        self._progress.advance(self._task, done)


def _listed_names(value: str | None) -> list[str] | None:
    return None if value is None else [name.strip() for name in value.split(",") if name.strip()]


def _shard(value: str) -> tuple[int, int]:
    """(i - 1, n) of i/n."""
    index, _, count = value.partition("/")
    if not (index.isascii() and index.isdigit() and count.isascii() and count.isdigit()):
        raise InputError(f"expected --shard i/n, got {value!r}")
    return int(index) - 1, int(count)


@app.command()
def calibrate(
    clean: Annotated[Path, typer.Option(help="Folder of clean pictures.", show_default=False)],
    attacked: Annotated[Path | None, typer.Option(help="Folder of attacked pictures.")] = None,
    attack: Annotated[
        CalibrationAttack | None, typer.Option(help="Attack the clean pictures: PGD-10, undefended model.")
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
    attacked_share: Annotated[
        float, typer.Option(min=0, max=1, help="Of the traffic that the expected cost is for.")
    ] = 0.0,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File for the settings, JSON; a report is written beside it.")
    ] = Path("counterattack.json"),
    plot: Annotated[Path | None, typer.Option(help="File for a picture of drift and ROC, SVG.")] = None,
    classnames: Classnames = None,
    templates: Templates = None,
    model: ModelName = None,
    pretrained: Pretrained = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Fine-tuned image tower; drift is measured by the original.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Settings as JSON whose threshold is set anew. Default: as for classify."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    device: AnyDevice = "auto",
    precision: Annotated[Precision, typer.Option()] = Precision.fp32,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise and the attack.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report, JSON, instead of a table.")
    ] = False,
) -> None:
    """Set the drift threshold on your pictures, for your model. Clean pictures alone will do."""
    from .attacks.levels import parse_level
    from .calibration.calibrating import Request, run
    from .calibration.plot import plot as drawn
    from .calibration.threshold import write

    if eps is not None and attack is None:
        raise InputError(f"--eps {eps} needs --attack, whose budget it is")
    request = Request(
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
        if file is not None and not file.parent.is_dir():
            raise InputError(f"no such folder: {file.parent}")
    if plot is not None and plot.suffix != ".svg":
        raise InputError(f"expected a file named .svg for the plot, got {plot}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UncalibratedWarning)  # that is what this is for
        classifier = _classifier(
            model, pretrained, classnames, templates, config, device, precision, checkpoint=checkpoint
        )
    with _Bar(MofNCompleteColumn()) as progress:
        task = progress.add_task("measuring drift")

        def batches(files: list[Path]) -> Iterator[tuple[list[Path], NDArray[Any]]]:
            for good, pixels, bad in _batches(classifier.preprocess, files, batch_size):
                _tell_skipped(bad, progress.console)
                if good:
                    yield good, pixels
                progress.advance(task, len(good) + len(bad))

        found = run(classifier, request, batches, total=lambda n: progress.update(task, total=n))
    report = write(found, out)
    if plot is not None:
        write_text(plot, drawn(found))
    if as_json:
        print(found.to_json(), end="")
        return
    table = Table("", "", show_header=False, title=escape(found.rule))
    for name, value in found.figures().items():
        table.add_row(name.replace("_", " "), f"{value:.4g}")
    _out.print(table)
    if found.separation is not None:
        _out.print(escape(f"{found.separation}"), highlight=False, soft_wrap=True)
    _out.print(escape(f"settings: {out}; report: {report}"), highlight=False, soft_wrap=True)
