"""Writes a model repository for NVIDIA's inference server from an exported classifier. Needs no torch.

python export/triton_server/repository.py defended.onnx --out model_repository
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from files import check_decoder, write_chain
from model_config import (
    LABELS,
    WARMUP_FOLDER,
    Serving,
    check_ports,
    describe_version,
    from_text,
    make_config,
    to_text,
)
from numpy.typing import NDArray

from clipfast.artifacts.metadata import Metadata
from clipfast.artifacts.parts import parts_of
from clipfast.cli import main
from clipfast.cli.console import printed_warnings
from clipfast.errors import ArtifactError, InputError
from clipfast.files import read_text, write_text
from clipfast.inputs.arrays import as_unit
from clipfast.inputs.rules import checked_integer
from clipfast.runtime import OnnxClassifier

__all__ = ["write_model"]

CONFIG = "config.pbtxt"


def write_model(
    artifact: str | os.PathLike[str],
    repository: str | os.PathLike[str],
    *,
    name: str = "clipfast",
    version: int = 1,
    replace: bool = False,
    serving: Serving | None = None,
    files: bool = False,
) -> Path:
    """Adds an exported classifier to a model repository and returns the folder of its version.

    artifact: an .onnx file of the profile serving for any batch, beside its external data if it has some.
    repository: the folder, made if it is missing. version: its number; versions that are there stay as they
    are, and a server that looks for changes goes on answering. replace: put it in the place of a version
    that is there. serving: how a new model is served; one that is there keeps its config.pbtxt.

    Each folder is written beside the repository, on the same file system, and renamed into its place: a
    write that fails leaves the repository as it was. Raises ArtifactError for a file that clipfast did not
    export or the server could not batch, for one whose callers could switch the defence off, and for a
    version whose inputs, outputs, labels or preparation of files are not those of its model; InputError for
    bad options and a repository that cannot be written.
    """
    artifact, repository = Path(artifact), Path(repository)
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) is None:
        raise InputError(f"name must be of letters, digits, '_', '.' and '-', got {name!r}")
    checked_integer("version", version, 2**31, start=1)
    # Not inside: the server takes every folder there for a model.
    beside = repository.resolve().parent
    if not beside.is_dir():
        raise InputError(f"no such folder: {beside}")
    model = repository / name
    if (model / str(version)).exists() and not replace:
        raise InputError(f"{model} has version {version} already: expected another one, or to replace it")
    classifier = _loaded(artifact)
    try:
        with tempfile.TemporaryDirectory(dir=beside, prefix=f".{repository.name}-") as aside:
            check_decoder(model, classifier.metadata)
            if model.exists():
                _add_version(artifact, classifier.metadata, model, version, serving, Path(aside))
            else:
                _write_new(artifact, classifier, model, version, serving or Serving(), Path(aside))
            if files:
                write_chain(model, classifier.metadata, Path(aside))
    except OSError as error:
        raise InputError(f"cannot write {repository}: {error.strerror or error}") from error
    return model / str(version)


def _loaded(artifact: Path) -> OnnxClassifier:
    if artifact.suffix != ".onnx":
        raise ArtifactError(f"{artifact}: expected an .onnx file, which the server's ONNX Runtime can run")
    classifier = OnnxClassifier(artifact)
    metadata = classifier.metadata
    if metadata.static or metadata.batch is not None:
        raise ArtifactError(
            f"{artifact} is {'static' if metadata.static else 'of a fixed batch'} and cannot be batched: "
            f"expected an export with --batch dynamic, got batch {metadata.batch}"
        )
    if metadata.profile != "serving":
        raise ArtifactError(
            f"{artifact} is of the profile {metadata.profile}: its callers choose noise and threshold and "
            "could switch the defence off; expected an export with --profile serving"
        )
    return classifier


def _write_new(
    artifact: Path, classifier: OnnxClassifier, model: Path, version: int, serving: Serving, aside: Path
) -> None:
    staged = aside / model.name
    (staged / WARMUP_FOLDER).mkdir(parents=True)
    pictures = _warmup_pictures(classifier)
    for file, picture in pictures.items():
        (staged / WARMUP_FOLDER / file).write_bytes(picture.tobytes())
    config = make_config(model.name, classifier.metadata, serving, list(pictures))
    describe_version(config, version, classifier.metadata)
    write_text(staged / LABELS, _labels(classifier.metadata))
    write_text(staged / CONFIG, to_text(config))
    _copy(artifact, staged / str(version))
    model.parent.mkdir(exist_ok=True)
    staged.rename(model)


def _add_version(
    artifact: Path, metadata: Metadata, model: Path, version: int, serving: Serving | None, aside: Path
) -> None:
    if serving is not None:
        raise InputError(f"{model / CONFIG} settles how {model.name} is served: edit it")
    before = read_text(model / CONFIG)
    config = from_text(before, str(model / CONFIG))
    check_ports(config, metadata, str(artifact))
    if read_text(model / LABELS) != _labels(metadata):
        raise ArtifactError(f"{artifact} has other classes than {model / LABELS}: give it another name")
    describe_version(config, version, metadata)
    staged, old, place = aside / "new", aside / "old", model / str(version)
    _copy(artifact, staged)
    # A server may look at any moment: it must find no version that the config does not describe.
    write_text(model / CONFIG, to_text(config))
    try:
        if place.exists():
            place.rename(old)
        staged.rename(place)
    except BaseException:
        if old.exists():
            old.rename(place)
        write_text(model / CONFIG, before)
        raise


def _copy(artifact: Path, folder: Path) -> None:
    folder.mkdir()
    file, *weights = parts_of(artifact)
    for part in weights:  # under the names by which the file refers to them
        place = folder / part.relative_to(artifact.parent)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(part, place)
    shutil.copyfile(file, folder / "model.onnx")


def _labels(metadata: Metadata) -> str:
    return "".join(f"{name}\n" for name in metadata.classnames)


def _warmup_pictures(classifier: OnnxClassifier) -> dict[str, NDArray[Any]]:
    """Two pictures [3, H, W] as the file takes them, by name: those of least and of most drift of a few.

    The gate counters by drift, so these two are likely to warm up both what passes and what is countered.
    """
    height, width = classifier.image_size
    numbers = np.random.default_rng(0)
    ramp = np.broadcast_to(np.linspace(0, 255, width, dtype=np.uint8), (3, height, width))
    pictures = [ramp, np.zeros_like(ramp)]
    for side in (1, 8):
        blocks = numbers.integers(0, 256, (3, -(-height // side), -(-width // side)), dtype=np.uint8)
        pictures.append(blocks.repeat(side, 1).repeat(side, 2)[:, :height, :width])
    # One draw of noise tells little: the means of a few.
    drift = classifier.predict(np.repeat(pictures, 8, axis=0)).drift.reshape(-1, 8).mean(axis=1)
    chosen = {"least_drift": pictures[int(drift.argmin())], "most_drift": pictures[int(drift.argmax())]}
    if classifier.metadata.pixels == "uint8":
        return chosen
    return {name: as_unit(picture) for name, picture in chosen.items()}


app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)


@app.command()
def _command(
    artifact: Annotated[
        Path, typer.Argument(help="An .onnx file of the profile serving.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="The model repository.", show_default=False)],
    name: Annotated[str, typer.Option(help="Of the model.")] = "clipfast",
    version: Annotated[int, typer.Option(help="Of the model; callers get the newest by default.")] = 1,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite a version that is there.")] = False,
    max_batch_size: Annotated[int | None, typer.Option(help="Images of one run. [default: 32]")] = None,
    max_queue_delay: Annotated[
        int | None, typer.Option(help="Microseconds that a request waits for others. [default: 2000]")
    ] = None,
    instances: Annotated[int | None, typer.Option(help="Copies of the model. [default: 1]")] = None,
    gpu: Annotated[bool | None, typer.Option("--gpu", help="Run on the GPUs, not on the CPU.")] = None,
    files: Annotated[
        bool, typer.Option("--files", help="Add NAME_files, which takes picture files; see the README.")
    ] = False,
) -> None:
    """Write a model repository for NVIDIA's inference server, or add a version to one."""
    options: dict[str, Any] = {
        "max_batch_size": max_batch_size,
        "max_queue_delay": max_queue_delay,
        "instances": instances,
        "gpu": gpu,
    }
    given = {option: value for option, value in options.items() if value is not None}
    with printed_warnings():
        folder = write_model(
            artifact,
            out,
            name=name,
            version=version,
            replace=replace,
            serving=Serving(**given) if given else None,
            files=files,
        )
    print(folder)


if __name__ == "__main__":
    main(app)
