"""`clipfast verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ..errors import ArtifactError, VerificationError
from ..preprocess import image_files
from . import options
from .console import printed_warnings, spinner, stdout
from .exported_parts import sha256_of

__all__ = ["command"]


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
) -> None:
    """Compare an exported file with the reference. Exit code 1 if they disagree."""
    from ..artifacts.base import check_file
    from ..verification.rebuilding import rebuilt
    from ..verification.verifying import compare, load_on_device

    check_file(file)
    if sha256 is not None and (digest := sha256_of(file)) != sha256.strip().lower():
        raise ArtifactError(f"{file}: expected the SHA-256 {sha256}, got {digest}")
    device = options.checked_device(device)
    with spinner("loading the model") as tell:
        with printed_warnings():
            artifact = load_on_device(file, device, trust=trust)
            classifier = rebuilt(artifact.metadata, model_name=against, pretrained=pretrained, device=device)
        verification = compare(
            artifact,
            classifier,
            images=None if images is None else classifier.preprocess.batch(image_files([images])),
            progress=tell,
        )
    stdout.print(verification.table())
    if not verification.agrees:
        raise VerificationError(f"{file} disagrees with the reference: {verification.failures}")
    stdout.print(f"{escape(str(file))} agrees with the reference", highlight=False, soft_wrap=True)
