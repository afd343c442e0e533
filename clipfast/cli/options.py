"""The options that commands share, and the classifier that they make."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..config import CounterattackConfig, Preset
from ..errors import InputError
from ..files import lines_of, read_lines, read_text

if TYPE_CHECKING:
    from ..classifier import DefendedClassifier

__all__ = [
    "AnyDevice",
    "Classnames",
    "ConfigFile",
    "Device",
    "EnginePrecision",
    "ModelName",
    "PresetName",
    "Pretrained",
    "Providers",
    "Templates",
    "checked_device",
    "defended_classifier",
    "listed_classnames",
    "named_model",
    "read_config",
    "runtime_options",
]

Classnames = Annotated[
    str | None,
    typer.Option(help="Class names: a,b,c, a file with one a line, or -. Default: a bundled model's."),
]
Templates = Annotated[Path | None, typer.Option(help="File with one prompt template a line, each with {}.")]
ModelName = Annotated[
    str | None,
    typer.Option(
        help="drawn or photographs (bundled), an open_clip name, or hf-hub:org/repo. Default: drawn."
    ),
]
Pretrained = Annotated[str | None, typer.Option(help="open_clip tag, or a local .safetensors or .pt file.")]
PresetName = Annotated[
    Preset | None,
    typer.Option(help="Settings by name. Default: recommended for a bundled model, else published."),
]
ConfigFile = Annotated[Path | None, typer.Option(help="Counterattack settings as JSON.")]
AnyDevice = Annotated[str, typer.Option(help="auto (the first GPU, else the CPU), cpu, cuda, cuda:1, ...")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]
Providers = Annotated[
    list[str] | None,
    typer.Option(
        "--provider",
        help="Of ONNX Runtime: cpu, cuda, tensorrt, coreml, webgpu or its own name; may be repeated.",
    ),
]
EnginePrecision = Annotated[Literal["fp32", "bf16", "fp16"], typer.Option()]


def runtime_options(runtime: str | None, providers: list[str] | None) -> dict[str, Any]:
    """Keyword arguments of `load_artifact`.

    runtime: by name, None where none was asked for. Raises InputError for providers of one that has none.
    """
    if not providers:
        return {"runtime": runtime or "auto"}
    if runtime not in (None, "onnxruntime"):
        raise InputError(f"--provider is of onnxruntime, got it with --runtime {runtime}")
    return {"runtime": "onnxruntime", "providers": providers}


def read_config(file: Path) -> CounterattackConfig:
    """Counterattack settings from a JSON file. Raises InputError for one that cannot be read."""
    return CounterattackConfig.from_json(read_text(file))


def checked_device(name: str) -> str:
    """A device that is here; of auto the first GPU, else the CPU. Raises InputError for another one."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        raise InputError(f"no device {name!r} here; there is: {', '.join(['cpu', *cuda])}") from error
    return name


def defended_classifier(
    *,
    model: str | None,
    pretrained: str | None,
    classnames: str | None,
    templates: Path | None,
    config: Path | None,
    preset: Preset | None,
    device: str,
    precision: str = "fp32",
    checkpoint: Path | None = None,
) -> DefendedClassifier:
    """The classifier that the options ask for, with a bundled model's own names and settings where they name
    none.

    checkpoint: a fine-tuned image tower in the place of the model's, which then measures drift. Raises
    InputError for options that do not go together, and as the constructors of `DefendedClassifier` do.
    """
    from ..classifier import DefendedClassifier
    from ..models.bundled import BUNDLED, bundled_defaults, bundled_folder

    options: dict[str, Any] = {"device": checked_device(device), "precision": precision}
    if templates is not None:
        options["templates"] = read_lines(templates)
    if config is not None and preset is not None:
        raise InputError(f"expected --config or --preset, got both: {config} and {preset}")
    if config is not None:
        options["config"] = read_config(config)
    names = None if classnames is None else listed_classnames(classnames)
    model = named_model(model, pretrained)
    if model in BUNDLED:
        defaults = bundled_defaults(bundled_folder(model), preset or "recommended")
        names = names or list(defaults.classnames)
        options.setdefault("config", defaults.config)
    elif config is None and preset is not None:
        options["config"] = CounterattackConfig.of(preset)
    if names is None:
        raise InputError(f"--model {model} needs --classnames: a,b,c or a file with one a line")
    if checkpoint is not None:
        return DefendedClassifier.from_finetuned(model, pretrained, checkpoint, names, **options)
    return DefendedClassifier.from_open_clip(model, pretrained, names, **options)


def named_model(model: str | None, pretrained: str | None) -> str:
    """The model's name, that of the first bundled one where none is given.

    Raises InputError for weights without an architecture and for an architecture without weights.
    """
    from ..models.bundled import BUNDLED
    from ..models.loading import check_weights_named

    if model is None and pretrained is not None:
        raise InputError(f"--pretrained {pretrained} needs --model, the name of its architecture")
    model = model or BUNDLED[0]
    check_weights_named(model, pretrained)
    return model


def listed_classnames(value: str) -> list[str]:
    """Class names: a,b,c; or one a line of a file or a pipe, or with - of standard input.

    Raises InputError for what looks like a path and leads nowhere.
    """
    if value == "-":
        return lines_of(sys.stdin.read())
    path = Path(value)
    try:
        is_readable = path.exists() and not path.is_dir()
    except (OSError, ValueError):  # a list longer than a file's name may be
        is_readable = False
    if is_readable:
        return read_lines(path)
    is_path = os.sep in value or path.suffix.lower() in (".txt", ".csv", ".json", ".names")
    if "," not in value and is_path:
        raise InputError(f"expected class names a,b,c or a file with one a line; there is no file {value}")
    return [name.strip() for name in value.split(",")]
