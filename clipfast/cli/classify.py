"""`clipfast classify`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol

import typer
from numpy.typing import NDArray
from rich.markup import escape
from rich.progress import MofNCompleteColumn
from rich.table import Column, Table

from ..artifacts.runtimes import RuntimeName
from ..errors import InputError
from ..files import check_place
from ..preprocess import look_for_images
from . import options
from .console import ProgressBar, printed_warnings, stderr, stdout, tell_skipped
from .reading import batches

if TYPE_CHECKING:
    from ..artifacts.classifier import ArtifactClassifier
    from ..classifier import DefendedClassifier
    from ..config import CounterattackConfig
    from ..prediction import Prediction, Stats

__all__ = ["Answered", "FileClassifier", "ReadHere", "classify_files", "command"]

_MANY = 16  # from this number of files on, a bar is shown


def command(
    images: Annotated[
        list[Path], typer.Argument(help="Image files, or folders of them.", show_default=False)
    ],
    artifact: Annotated[
        Path | None, typer.Option(help="An exported classifier: .onnx (needs no torch), .ts.pt or .pt2.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the code that an artifact of .ts.pt or .pt2 brings.")
    ] = False,
    sha256: Annotated[
        str | None,
        typer.Option(help="Digest that the artifact must have (cat FILE FILE.data | sha256sum)."),
    ] = None,
    runtime: Annotated[
        RuntimeName | None,
        typer.Option(
            help="What runs the artifact. Default: the first installed of onnxruntime and openvino."
        ),
    ] = None,
    providers: options.Providers = None,
    classnames: options.Classnames = None,
    templates: options.Templates = None,
    model: options.ModelName = None,
    pretrained: options.Pretrained = None,
    config: options.ConfigFile = None,
    preset: options.PresetName = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    device: options.AnyDevice = "auto",
    precision: options.EnginePrecision = "fp32",
    seed: Annotated[int | None, typer.Option(help="Makes the answers reproducible.")] = None,
    topk: Annotated[int, typer.Option(min=1, help="How many classes to list for each image.")] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line instead of a table.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(help="File for a page of the pictures with their answers.", show_default=False),
    ] = None,
) -> None:
    """Classify image files, defended. Exit code 1 if a file could not be read; the rest go on."""

    def make() -> DefendedClassifier | ArtifactClassifier:
        if artifact is None:
            of_a_file = {
                "--trust": trust,
                "--sha256": sha256,
                "--runtime": runtime,
                "--provider": providers,
            }
            for option, given in of_a_file.items():
                if given:
                    raise InputError(f"{option} needs --artifact, an exported file")
            return options.defended_classifier(
                model=model,
                pretrained=pretrained,
                classnames=classnames,
                templates=templates,
                config=config,
                preset=preset,
                device=device,
                precision=precision,
            )
        settled = {
            "--classnames": classnames,
            "--templates": templates,
            "--model": model,
            "--pretrained": pretrained,
            "--config": config,
            "--preset": preset,
            "--precision": None if precision == "fp32" else precision,
        }
        where = {"trust": trust, "sha256": sha256, **options.runtime_options(runtime, providers)}
        return _from_artifact(artifact, device, settled, where)

    if html is not None:
        check_place(html)
    readers: list[ReadHere] = []

    def reader() -> ReadHere:
        readers.append(ReadHere(make(), seed, with_sheet=html is not None))
        return readers[0]

    try:
        classify_files(images, reader, batch_size=batch_size, topk=topk, as_json=as_json)
    finally:  # files that could not be read end the command with an exit code
        if html is not None and readers:
            readers[0].write_sheet(html)


class Answered(NamedTuple):
    """The result for some files: those that could be read, and the errors of the others.

    Attributes:
        files: The N files that could be read.
        prediction: Their N answers, or None if N is 0.
        errors: The errors of the files that could not be read.
    """

    files: list[Path]
    prediction: Prediction[Any] | None
    errors: list[InputError]


class FileClassifier(Protocol):
    """A classifier that answers for picture files."""

    def answers(self, files: list[Path], size: int) -> Iterator[Answered]:
        """Answers for files, a batch at a time.

        Args:
            files: The picture files.
            size: The largest number of files in a batch.

        Yields:
            The result for each batch, in the order of the files.
        """
        ...

    def stats(self) -> Stats:
        """Returns the counts over all answers."""
        ...


class ReadHere:
    """A file classifier that reads the files itself and gives their pixels to a classifier.

    Args:
        classifier: The classifier of pixels.
        seed: The seed of its noise; see `DefendedClassifier.predict`.
        with_sheet: Whether pictures and answers are kept for `write_sheet`.
    """

    def __init__(
        self,
        classifier: DefendedClassifier | ArtifactClassifier,
        seed: int | None = None,
        *,
        with_sheet: bool = False,
    ) -> None:
        self._classifier, self._seed = classifier, seed
        self._sheet = None
        if with_sheet:
            from .contact_sheet import ContactSheet

            self._sheet = ContactSheet(_config_of(classifier))

    def answers(self, files: list[Path], size: int) -> Iterator[Answered]:
        """Answers for files, a batch at a time.

        Args:
            files: The picture files.
            size: The largest number of files in a batch.

        Yields:
            The result for each batch, in the order of the files.

        Raises:
            InputError: As for the classifier's `predict`. Files that cannot be read raise nothing.
            ArtifactError: As for `ArtifactClassifier.predict`.
        """
        done = 0
        for good, pixels, bad in batches(self._classifier.preprocess, files, size):
            prediction = None
            if good:
                prediction = _predict(
                    self._classifier, pixels, self._sheet is not None, seed=self._seed, first_image=done
                )
                if self._sheet is not None:
                    self._sheet.add(good, pixels, prediction)
            done += len(good)
            yield Answered(good, prediction, bad)

    def stats(self) -> Stats:
        """Returns the classifier's counts."""
        return self._classifier.stats()

    def write_sheet(self, path: Path) -> None:
        """Writes all pictures with their answers to an HTML file.

        Raises:
            InputError: If the file cannot be written.
        """
        assert self._sheet is not None
        self._sheet.write(path, self.stats())


def classify_files(
    images: Sequence[Path],
    make: Callable[[], FileClassifier],
    *,
    batch_size: int,
    topk: int,
    as_json: bool,
) -> None:
    """Classifies image files and those in folders, and prints a table or a JSON object a line.

    What cannot be read is reported on stderr, and the rest goes on.

    Args:
        images: Image files, or folders of them.
        make: Makes the classifier. Called once, and only if there is a file.
        batch_size: The largest number of files in a batch, at least 1.
        topk: How many classes to list for each image, at least 1.
        as_json: Whether to print a JSON object a line instead of a table.

    Raises:
        typer.Exit: With code 1 if there are no files, or if some could not be read.
    """
    files: list[Path] = []
    failed = 0
    for path in images:
        found = look_for_images(path)
        files += found.files
        failed += len(found.left_out)
        tell_skipped(found.left_out)
    if not files:
        raise typer.Exit(1)
    with printed_warnings():
        classifier = make()
    # Long cells are folded and not cut, because paths and names often differ only at the end.
    image, best, changed = (
        Column(name, overflow="fold") for name in ("image", "class", "changed the answer")
    )
    table = Table(image, best, "probability", "drift", "countered", changed)
    done = 0
    with ProgressBar(MofNCompleteColumn(), disable=len(files) < _MANY) as bar:
        task = bar.add_task("classifying", total=len(files))
        for good, prediction, bad in classifier.answers(files, batch_size):
            tell_skipped(bad)
            failed += len(bad)
            done += len(good)
            if prediction is not None:
                rows = list(_rows(good, prediction, topk))
                if as_json:
                    with bar.away():
                        print(*map(json.dumps, rows), sep="\n")
                else:
                    for row in rows:
                        _add(table, row)
            bar.advance(task, len(good) + len(bad))
    if not as_json:
        stdout.print(table)
        stats = classifier.stats()
        stdout.print(f"{stats.images} images, {stats.countered} countered, {stats.changed} answers changed")
    if failed:
        stderr.print(f"{failed} of {done + failed} inputs could not be read", style="red")
        raise typer.Exit(1)


def _from_artifact(
    artifact: Path, device: str, settled: dict[str, object], where: dict[str, Any]
) -> ArtifactClassifier:
    """Reads an exported file.

    settled: the options that the file decides itself, None if not given. where: keyword arguments of
    `load_artifact`.
    """
    from ..artifacts.formats import format_of
    from ..artifacts.loading import load_artifact

    for option, value in settled.items():
        if value is not None:
            raise InputError(f"--artifact {artifact} does not go with {option}: the file settles it")
    if device != "auto":
        if not format_of(artifact).is_program:
            raise InputError(f"--artifact {artifact} does not go with --device: its runtime chooses it")
        where = {**where, "device": options.checked_device(device)}
    return load_artifact(artifact, **where)


def _config_of(classifier: DefendedClassifier | ArtifactClassifier) -> CounterattackConfig:
    from ..artifacts.classifier import ArtifactClassifier

    if isinstance(classifier, ArtifactClassifier):
        return classifier.metadata.config
    return classifier.config


def _predict(
    classifier: DefendedClassifier | ArtifactClassifier,
    pixels: NDArray[Any],
    with_delta: bool,
    **settings: Any,
) -> Prediction[Any]:
    """Classifies pixels; with_delta: with what was added to them, of a classifier that tells."""
    from ..artifacts.classifier import ArtifactClassifier

    if isinstance(classifier, ArtifactClassifier):
        told = with_delta and "delta" in classifier.metadata.outputs
        return classifier.predict(pixels, with_delta=told, **settings)
    import torch

    return classifier.predict(
        torch.from_numpy(pixels), with_delta=with_delta, with_undefended=True, **settings
    )


def _rows(files: list[Path], prediction: Prediction[Any], topk: int) -> Iterator[dict[str, Any]]:
    drift, countered = prediction.drift.tolist(), prediction.countered.tolist()
    changed, best = prediction.changed.tolist(), prediction.topk(topk)
    known = prediction.undefended_known.tolist()
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
            "undefended_class": prediction.classnames[undefended[i]] if known[i] else None,
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
