"""`clipfast verify`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.markup import escape

from ..errors import ArtifactError, VerificationError
from ..preprocess import Preprocess, image_files
from . import options
from .console import printed_warnings, spinner, stdout
from .exported_parts import sha256_of

if TYPE_CHECKING:
    from ..artifacts.sessions.session import Session
    from ..verification.outcome import Verification

__all__ = ["command"]

Compare = Callable[..., "Verification"]  # of a session, telling of its steps


def command(
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
    from ..artifacts.sessions.session import check_file
    from ..verification.loading import load_on_device

    check_file(file)
    if sha256 is not None and (digest := sha256_of(file)) != sha256.strip().lower():
        raise ArtifactError(f"{file}: expected the SHA-256 {sha256}, got {digest}")
    device = options.checked_device(device)
    names = runtimes or (["onnxruntime"] if providers else format_of(file).installed_runtimes())
    chosen = [options.runtime_options(name, providers) for name in names]
    found: dict[str, Verification] = {}
    compare: Compare | None = None
    with spinner("loading the model") as tell:
        for where in chosen:
            session = load_on_device(file, device, trust=trust, **where)
            if compare is None:
                compare = _comparison(session, against, pretrained, images, device)
            runtime = where["runtime"]
            found[runtime] = compare(session, lambda message, runtime=runtime: tell(f"{runtime}: {message}"))
    for runtime, verification in found.items():
        stdout.print(verification.table(runtime))
    failures = [f"in {name}: {one.failures}" for name, one in found.items() if not one.agrees]
    if failures:
        raise VerificationError(f"{file} disagrees with the reference {'; '.join(failures)}")
    stdout.print(f"{escape(str(file))} agrees with the reference", highlight=False, soft_wrap=True)


def _comparison(
    session: Session, against: str | None, pretrained: str | None, images: Path | None, device: str
) -> Compare:
    """What compares this file, in any runtime, with the model that it was exported from."""
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
            encoder = ImageEncoder(session)
            return partial(
                compare_embeddings,
                tower=rebuilt_tower(encoder.metadata, **model),
                images=_pictures(images, encoder.preprocess),
            )
        classifier = rebuilt(read_metadata(session, Metadata.from_json), **model)
        return Comparison(classifier, _pictures(images, classifier.preprocess)).of


def _pictures(images: Path | None, preprocess: Preprocess) -> NDArray[np.uint8] | None:
    return None if images is None else preprocess.batch(image_files([images]))
