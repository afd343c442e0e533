"""The options that several commands share, and the classifier that they make."""

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
    """Returns keyword arguments of `load_artifact` for a runtime and its providers.

    Args:
        runtime: The runtime's name, or None if none was asked for.
        providers: ONNX Runtime's execution providers in order of preference, or None.

    Raises:
        InputError: If providers are given for a runtime other than onnxruntime.
    """
    if not providers:
        return {"runtime": runtime or "auto"}
    if runtime not in (None, "onnxruntime"):
        raise InputError(f"--provider is of onnxruntime, got it with --runtime {runtime}")
    return {"runtime": "onnxruntime", "providers": providers}


def read_config(file: Path) -> CounterattackConfig:
    """Reads counterattack settings from a JSON file.

    Raises:
        InputError: If the file cannot be read, or does not hold valid settings.
    """
    return CounterattackConfig.from_json(read_text(file))


def checked_device(name: str) -> str:
    """Returns the name of a device that is on this machine.

    Args:
        name: The device's name. "auto" is the first GPU, or the CPU if there is none.

    Raises:
        InputError: If there is no such device.
    """
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
    """Builds the classifier that the options ask for.

    Class names and settings that the options leave out are a bundled model's own, if the model is one.

    Args:
        model: The model's name, or None for the first bundled one.
        pretrained: open_clip's tag or a file of weights, or None.
        classnames: Class names as `listed_classnames` takes them, or None.
        templates: A file with one prompt template a line, or None.
        config: A file with settings as JSON, or None.
        preset: The name of settings, or None.
        device: A device as `checked_device` takes it.
        precision: See `DefendedClassifier`.
        checkpoint: A fine-tuned image tower that replaces the model's, or None. The model's own tower
            then measures drift.

    Returns:
        The classifier. It warns as `DefendedClassifier` does.

    Raises:
        InputError: If options do not go together, a file cannot be read, or class names are missing; or
            as for the constructors of `DefendedClassifier`.
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
    """Returns the model's name, or that of the first bundled model if none is given.

    Args:
        model: The model's name, or None.
        pretrained: open_clip's tag or a file of weights, or None.

    Raises:
        InputError: If weights are given without an architecture, or an architecture without weights.
    """
    from ..models.bundled import BUNDLED
    from ..models.loading import check_weights_named

    if model is None and pretrained is not None:
        raise InputError(f"--pretrained {pretrained} needs --model, the name of its architecture")
    model = model or BUNDLED[0]
    check_weights_named(model, pretrained)
    return model


def listed_classnames(value: str) -> list[str]:
    """Reads class names from an option's value.

    Args:
        value: Names as a,b,c; a file or pipe with one name a line; or - for standard input.

    Raises:
        InputError: If the value looks like a path, and there is no such file; or a file cannot be read.
    """
    if value == "-":
        return lines_of(sys.stdin.read())
    path = Path(value)
    try:
        is_readable = path.exists() and not path.is_dir()
    except (OSError, ValueError):  # a list of names can be longer than a path may be
        is_readable = False
    if is_readable:
        return read_lines(path)
    is_path = os.sep in value or path.suffix.lower() in (".txt", ".csv", ".json", ".names")
    if "," not in value and is_path:
        raise InputError(f"expected class names a,b,c or a file with one a line; there is no file {value}")
    return [name.strip() for name in value.split(",")]
