"""`clipfast verify`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ..errors import ArtifactError, UncalibratedWarning, VerificationError
from ..preprocess import image_files
from . import options
from .console import printed_warnings, spinner, stdout
from .exported_parts import sha256_of

if TYPE_CHECKING:
    from ..verification.outcome import Verification

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
    from ..artifacts.base import check_file
    from ..artifacts.formats import format_of
    from ..verification.rebuilding import rebuilt
    from ..verification.verifying import compare, load_on_device

    check_file(file)
    if sha256 is not None and (digest := sha256_of(file)) != sha256.strip().lower():
        raise ArtifactError(f"{file}: expected the SHA-256 {sha256}, got {digest}")
    device = options.checked_device(device)
    names = runtimes or (["onnxruntime"] if providers else format_of(file).installed_runtimes())
    chosen = [options.runtime_options(name, providers) for name in names]
    found: dict[str, Verification] = {}
    classifier = pictures = None
    with spinner("loading the model") as tell:
        for where in chosen:
            # Each runtime warns of the same file; the first is enough.
            once = warnings.catch_warnings(action="ignore", category=UncalibratedWarning)
            with printed_warnings() if classifier is None else once:
                artifact = load_on_device(file, device, trust=trust, **where)
                if classifier is None:
                    classifier = rebuilt(
                        artifact.metadata, model_name=against, pretrained=pretrained, device=device
                    )
            if images is not None and pictures is None:
                pictures = classifier.preprocess.batch(image_files([images]))
            runtime = where["runtime"]
            found[runtime] = compare(
                artifact,
                classifier,
                images=pictures,
                progress=lambda message, runtime=runtime: tell(f"{runtime}: {message}"),
            )
    for runtime, verification in found.items():
        stdout.print(verification.table(runtime))
    failures = [f"in {name}: {one.failures}" for name, one in found.items() if not one.agrees]
    if failures:
        raise VerificationError(f"{file} disagrees with the reference {'; '.join(failures)}")
    stdout.print(f"{escape(str(file))} agrees with the reference", highlight=False, soft_wrap=True)
