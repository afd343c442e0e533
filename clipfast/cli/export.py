"""`clipfast export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from ..artifacts.formats import FormatName, format_of
from ..artifacts.metadata import Precision
from ..artifacts.ports import PixelType, Port, Profile, described
from ..errors import InputError
from . import options
from .console import printed_warnings, spinner, stdout
from .exported_parts import files_of, sha256_of

if TYPE_CHECKING:
    from ..exporters import Export

__all__ = ["command"]

# With one that is refused, so that its reason is told.
AskedPrecision = Literal[Precision, "int8"]


def command(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File to write: .onnx, .ts.pt or .pt2.", show_default=False)
    ],
    format: Annotated[FormatName | None, typer.Option(help="Default: what the file's name says.")] = None,
    profile: Annotated[
        Profile, typer.Option(help="lab takes noise and thresholds, and gives the perturbation.")
    ] = "serving",
    precision: Annotated[AskedPrecision, typer.Option()] = "fp32",
    pixels: Annotated[PixelType, typer.Option(help="Type of the pixels.")] = "float32",
    batch: Annotated[str, typer.Option(help="Batch size: a number, or dynamic.")] = "dynamic",
    static: Annotated[
        bool,
        typer.Option("--static", help="Batch 1, every shape known, noise as an input: for edge compilers."),
    ] = False,
    outputs: Annotated[
        str | None,
        typer.Option(
            help="a,b,c of logits, undefended_logits, drift, countered, delta (lab), embedding. "
            "Default: all but embedding."
        ),
    ] = None,
    opset: Annotated[int, typer.Option(help="Of ONNX.")] = 20,
    tolerance: Annotated[
        float | None, typer.Option(help="Largest difference of undefended logits from the reference.")
    ] = None,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Do not compare the file with the reference.")
    ] = False,
    license: Annotated[str | None, typer.Option(help="Licence of the weights, noted in the file.")] = None,
    classnames: options.Classnames = None,
    templates: options.Templates = None,
    model: options.ModelName = None,
    pretrained: options.Pretrained = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings as JSON; a calibration's report beside it goes along.")
    ] = None,
    preset: options.PresetName = None,
    device: Annotated[str, typer.Option(help="Where it is traced: cpu, cuda, cuda:1, ...")] = "cpu",
) -> None:
    """Write the defended classifier as one file. Exit code 1 if it disagrees with the reference."""
    from ..calibration.threshold import figures_beside
    from ..exporters import export

    settings: dict[str, Any] = {
        "format": format_of(out).name if format is None else format,
        "profile": profile,
        "precision": precision,
        "pixels": pixels,
        "batch": _batch_size(batch),
        "outputs": None if outputs is None else [name.strip() for name in outputs.split(",")],
    }
    with spinner("loading the model") as tell:
        with printed_warnings():
            classifier = options.defended_classifier(
                model=model,
                pretrained=pretrained,
                classnames=classnames,
                templates=templates,
                config=config,
                preset=preset,
                device=device,
            )
        figures = figures_beside(config) if config is not None and classifier.calibrated else None
        exported = export(
            classifier,
            out,
            calibration=figures,
            static=static,
            opset=opset,
            license=license,
            verify=not no_verify,
            tolerance=tolerance,
            progress=tell,
            **settings,
        )
    for runtime, verification in exported.verifications.items():
        stdout.print(verification.table(runtime))
    _describe(exported)


def _batch_size(value: str) -> int | None:
    if value == "dynamic":
        return None
    if value.isascii() and value.isdigit() and int(value) > 0:
        return int(value)
    raise InputError(f"--batch must be a positive number or dynamic, got {value!r}")


def _describe(exported: Export) -> None:
    size = sum(file.stat().st_size for file in files_of(exported.path))
    inputs, outputs = exported.metadata.ports
    for line in (
        f"{exported.path}: {size / 1e6:.1f} MB, profile {exported.metadata.profile}",
        f"inputs: {_listed(inputs)}",
        f"outputs: {_listed(outputs)}",
        f"sha256: {sha256_of(exported.path)}",
    ):
        stdout.print(escape(line), highlight=False, soft_wrap=True)


def _listed(ports: Sequence[Port]) -> str:
    return ", ".join(f"{port.name} {described(port.dtype, port.shape)}" for port in ports)
