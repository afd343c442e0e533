"""`clipfast verify`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.markup import escape

from ..errors import InputError, VerificationError
from ..preprocess import Preprocess, image_files
from . import options
from .console import printed_warnings, spinner, stdout

if TYPE_CHECKING:
    from ..artifacts.encoder_metadata import EncoderMetadata
    from ..artifacts.metadata import Metadata
    from ..artifacts.sessions.session import Session
    from ..verification.outcome import Verification

__all__ = ["command"]

Compare = Callable[..., "Verification"]  # takes a session, and a function that is told of each step


def command(
    file: Annotated[Path, typer.Argument(help="An exported classifier.", show_default=False)],
    against: Annotated[
        str | None,
        typer.Option(
            help="open_clip model name. Default: the one that the file names, if it is on this machine."
        ),
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="open_clip tag or file of weights. Default: those that the file names.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of pictures. Default: drawn ones.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Settings that FILE must have, as JSON. Default: its own, which are told."),
    ] = None,
    sha256: Annotated[
        str | None,
        typer.Option(
            help="Digest that FILE must have, checked before it is read; of FILE and then the files that its "
            "weights lie in (cat FILE FILE.data | sha256sum)."
        ),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the code that a file of .ts.pt or .pt2 brings.")
    ] = False,
    device: options.Device = "cpu",
    runtimes: Annotated[
        list[str] | None,
        typer.Option(
            "--runtime",
            help="onnxruntime, openvino or reference; may be repeated. Default: each that is installed.",
        ),
    ] = None,
    providers: options.Providers = None,
) -> None:
    """Compare an exported file with the reference. Exit code 1 if they disagree in any runtime."""
    from ..artifacts.formats import format_of
    from ..artifacts.parts import sha256_of
    from ..verification.loading import load_on_device

    digest = sha256 or sha256_of(file)  # so that every runtime reads the same bytes
    device = options.checked_device(device)
    names = runtimes or (["onnxruntime"] if providers else format_of(file).installed_runtimes())
    chosen = [options.runtime_options(name, providers) for name in names]
    found: dict[str, Verification] = {}
    compare: Compare | None = None
    told: list[str] = []
    with spinner("loading the model") as tell:
        for where in chosen:
            session = load_on_device(file, device, trust=trust, sha256=digest, **where)
            if compare is None:
                compare, told = _comparison(session, against, pretrained, images, config, device)
            runtime = where["runtime"]
            found[runtime] = compare(session, lambda message, runtime=runtime: tell(f"{runtime}: {message}"))
    for runtime, verification in found.items():
        stdout.print(verification.table(runtime))
    for line in (*told, f"sha256: {digest}"):
        stdout.print(escape(line), highlight=False, soft_wrap=True)
    failures = [f"in {name}: {one.failures}" for name, one in found.items() if not one.agrees]
    if failures:
        raise VerificationError(f"{file} disagrees with the reference {'; '.join(failures)}")
    stdout.print(f"{escape(str(file))} agrees with the reference", highlight=False, soft_wrap=True)


def _comparison(
    session: Session,
    against: str | None,
    pretrained: str | None,
    images: Path | None,
    config: Path | None,
    device: str,
) -> tuple[Compare, list[str]]:
    """A function that compares this file, in any runtime, with its model; and lines about the file.

    The lines are what the file says of itself that no comparison shows.
    """
    from ..artifacts.encoder import ImageEncoder
    from ..artifacts.encoder_metadata import is_encoder
    from ..artifacts.metadata import Metadata
    from ..artifacts.running import read_metadata
    from ..verification.embeddings import compare_embeddings
    from ..verification.rebuilding import rebuilt, rebuilt_tower
    from ..verification.verifying import Comparison

    model: dict[str, Any] = {"model_name": against, "pretrained": pretrained, "device": device}
    with printed_warnings():
        if read_metadata(session, is_encoder):
            if config is not None:
                raise InputError(
                    f"{session.path} is an image encoder, and has no settings: got --config {config}"
                )
            encoder = ImageEncoder(session)
            return partial(
                compare_embeddings,
                tower=rebuilt_tower(encoder.metadata, **model),
                images=_pictures(images, encoder.preprocess),
            ), _told(encoder.metadata)
        metadata = read_metadata(session, Metadata.from_json)
        expected = None if config is None else options.read_config(config)
        classifier = rebuilt(metadata, config=expected, **model)
        compare = Comparison(classifier, _pictures(images, classifier.preprocess)).of
        return compare, [
            f"settings: {json.dumps(dataclasses.asdict(metadata.config))}",
            f"calibrated for this model: {'yes' if metadata.calibrated else 'no'}",
            *_told(metadata),
        ]


def _told(metadata: Metadata | EncoderMetadata) -> list[str]:
    return [f"pictures: {metadata.preprocess}", f"precision: {metadata.precision}"]


def _pictures(images: Path | None, preprocess: Preprocess) -> NDArray[np.uint8] | None:
    return None if images is None else preprocess.batch(image_files([images]))
