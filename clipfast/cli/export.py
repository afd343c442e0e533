"""`clipfast export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from ..artifacts.fields import Precision
from ..artifacts.formats import FormatName, format_of
from ..artifacts.parts import parts_of, sha256_of
from ..artifacts.ports import PixelType, Port, Profile, described
from ..errors import InputError
from . import options
from .console import printed_warnings, spinner, stdout

if TYPE_CHECKING:
    from ..exporters import EncoderExport, Export

__all__ = ["command"]

# int8 is accepted here and refused later, so that the user reads why.
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
    encoder_only: Annotated[
        bool,
        typer.Option("--encoder-only", help="The image tower alone, undefended: pixels to embeddings."),
    ] = False,
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
    from ..exporters import export, export_encoder
    from ..models.loading import load_open_clip

    common: dict[str, Any] = {
        "format": format_of(out).name if format is None else format,
        "precision": precision,
        "pixels": pixels,
        "batch": _batch_size(batch),
        "opset": opset,
        "license": license,
        "verify": not no_verify,
    }
    exported: Export | EncoderExport
    with spinner("loading the model") as tell:
        if encoder_only:
            of_a_classifier = {
                "--profile": None if profile == "serving" else profile,
                "--static": static or None,
                "--outputs": outputs,
                "--tolerance": tolerance,
                "--classnames": classnames,
                "--templates": templates,
                "--config": config,
                "--preset": preset,
            }
            if given := [name for name, value in of_a_classifier.items() if value is not None]:
                raise InputError(f"--encoder-only has no defence and no classes: got {', '.join(given)} too")
            name = options.named_model(model, pretrained)
            loaded, _ = load_open_clip(name, pretrained, device=options.checked_device(device))
            exported = export_encoder(loaded, out, source=(name, pretrained), progress=tell, **common)
            kind = "an image encoder"
        else:
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
            # `export` checks these names.
            named: Any = None if outputs is None else [name.strip() for name in outputs.split(",")]
            figures = figures_beside(config) if config is not None and classifier.calibrated else None
            exported = export(
                classifier,
                out,
                profile=profile,
                static=static,
                outputs=named,
                calibration=figures,
                tolerance=tolerance,
                progress=tell,
                **common,
            )
            kind = f"profile {profile}"
    for runtime, verification in exported.verifications.items():
        stdout.print(verification.table(runtime))
    _describe(exported, kind)


def _batch_size(value: str) -> int | None:
    if value == "dynamic":
        return None
    if value.isascii() and value.isdigit() and int(value) > 0:
        return int(value)
    raise InputError(f"--batch must be a positive number or dynamic, got {value!r}")


def _describe(exported: Export | EncoderExport, kind: str) -> None:
    size = sum(file.stat().st_size for file in parts_of(exported.path))
    inputs, outputs = exported.metadata.ports
    for line in (
        f"{exported.path}: {size / 1e6:.1f} MB, {kind}",
        f"inputs: {_listed(inputs)}",
        f"outputs: {_listed(outputs)}",
        f"sha256: {sha256_of(exported.path)}",
    ):
        stdout.print(escape(line), highlight=False, soft_wrap=True)


def _listed(ports: Sequence[Port]) -> str:
    return ", ".join(f"{port.name} {described(port.dtype, port.shape)}" for port in ports)
