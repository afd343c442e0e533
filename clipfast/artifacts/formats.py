"""The formats of exported files: one list, which everything that names a format reads. Needs no torch."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..errors import ArtifactError, InputError, names_extra

if TYPE_CHECKING:
    from .base import ArtifactClassifier

__all__ = ["FORMATS", "Format", "FormatName", "format_of", "load_artifact", "named_format"]

FormatName = Literal["onnx", "torchscript", "aotinductor"]


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format of exported files.

    suffix: how its files' names end. loader, writer: "module:name" of the `ArtifactClassifier` that runs a
    file and of the function that writes one (see `clipfast.exporters.exporting.Writer`), imported when they
    are asked for. is_program: whether a file brings code that runs when it is loaded: its loader takes
    `trust`, and a torch device.
    """

    name: FormatName
    suffix: str
    loader: str
    writer: str
    is_program: bool

    def load(self, path: Path, *, trust: bool = False, **options: Any) -> ArtifactClassifier:
        """The classifier that runs a file. trust: for programs; options: keyword arguments of its class."""
        if self.is_program:
            options["trust"] = trust
        try:
            return _imported(self.loader)(path, **options)
        except ModuleNotFoundError as error:
            raise names_extra(path.name, error) from error

    def writes(self) -> Callable[..., None]:
        """The function that writes a file."""
        try:
            return _imported(self.writer)
        except ModuleNotFoundError as error:
            raise names_extra(f"an export as {self.name}", error) from error


FORMATS: dict[FormatName, Format] = {
    format.name: format
    for format in (
        Format(
            name="onnx",
            suffix=".onnx",
            loader="clipfast.artifacts.onnx_runtime:OnnxClassifier",
            writer="clipfast.exporters.onnx.writer:write",
            is_program=False,
        ),
        Format(
            name="torchscript",
            suffix=".ts.pt",
            loader="clipfast.artifacts.torchscript:TorchScriptClassifier",
            writer="clipfast.exporters.torchscript:write",
            is_program=True,
        ),
        Format(
            name="aotinductor",
            suffix=".pt2",
            loader="clipfast.artifacts.aotinductor:AOTInductorClassifier",
            writer="clipfast.exporters.aotinductor:write",
            is_program=True,
        ),
    )
}


def named_format(name: str) -> Format:
    """The format of a name. Raises InputError for another one."""
    for format in FORMATS.values():
        if format.name == name:
            return format
    raise InputError(f"format must be one of {get_args(FormatName)}, got {name!r}")


def format_of(path: str | os.PathLike[str]) -> Format:
    """The format that a file's name stands for. Raises ArtifactError for another name."""
    for format in FORMATS.values():
        if Path(path).name.endswith(format.suffix):
            return format
    *others, last = (format.suffix for format in FORMATS.values())
    raise ArtifactError(f"{path}: expected a file named {', '.join(others)} or {last}")


def load_artifact(path: str | os.PathLike[str], *, trust: bool = False, **options: Any) -> ArtifactClassifier:
    """Reads an exported classifier by its file's name: .onnx, .ts.pt (TorchScript) or .pt2 (AOTInductor).

    trust: for the latter two, which need torch and run the file's code when they load it. options: keyword
    arguments of the class for that format. Raises ArtifactError for another name, and as that class does.
    """
    return format_of(path).load(Path(path), trust=trust, **options)


def _imported(place: str) -> Any:
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)
