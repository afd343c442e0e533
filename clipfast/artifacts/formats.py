"""The formats of exported files: one list, which everything that names a format reads. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..errors import ArtifactError, InputError, names_extra
from .runtimes import Runtime, RuntimeName, imported

if TYPE_CHECKING:
    from .sessions.session import Session

__all__ = ["FORMATS", "Format", "FormatName", "format_of", "named_format"]

FormatName = Literal["onnx", "torchscript", "aotinductor"]


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format of exported files.

    suffix: how its files' names end. runtimes: what runs them, the preferred one first. writer:
    "module:name" of the function that writes one (see `clipfast.exporters.exporting.Writer`), imported when
    it is asked for. is_program: whether a file brings code that runs when it is loaded: its sessions take
    `trust`, and a torch device.
    """

    name: FormatName
    suffix: str
    runtimes: tuple[Runtime, ...]
    writer: str
    is_program: bool

    def load(self, path: Path, *, runtime: str = "auto", trust: bool = False, **options: Any) -> Session:
        """A file in the runtime that runs it.

        runtime: by name; "auto" is the first that is installed. trust: for programs; options: keyword
        arguments of the runtime's session.
        """
        chosen = self.runtime(runtime)
        if self.is_program:
            options["trust"] = trust
        try:
            return chosen.load(path, **options)
        except ModuleNotFoundError as error:
            raise names_extra(path.name, error) from error

    def runtime(self, name: str = "auto") -> Runtime:
        """The runtime of a name. Raises InputError for one that does not run this format."""
        if name == "auto":
            serving = [runtime for runtime in self.runtimes if not runtime.for_checks]
            return next((runtime for runtime in serving if runtime.is_installed()), serving[0])
        for runtime in self.runtimes:
            if runtime.name == name:
                return runtime
        known = ", ".join(runtime.name for runtime in self.runtimes)
        raise InputError(f"files of {self.suffix} run in {known}, got the runtime {name!r}")

    def installed_runtimes(self) -> tuple[RuntimeName, ...]:
        """The names of the runtimes that are there, the preferred one first."""
        return tuple(runtime.name for runtime in self.runtimes if runtime.is_installed())

    def writes(self) -> Callable[..., None]:
        """The function that writes a file."""
        try:
            return imported(self.writer)
        except ModuleNotFoundError as error:
            raise names_extra(f"an export as {self.name}", error) from error


def _torch(session: str) -> Runtime:
    return Runtime(name="torch", package="torch", session=session)


FORMATS: dict[FormatName, Format] = {
    format.name: format
    for format in (
        Format(
            name="onnx",
            suffix=".onnx",
            runtimes=(
                Runtime(
                    name="onnxruntime",
                    package="onnxruntime",
                    session="clipfast.artifacts.sessions.onnx_runtime:OnnxRuntimeSession",
                ),
                Runtime(
                    name="openvino",
                    package="openvino",
                    session="clipfast.artifacts.sessions.openvino_runtime:OpenVinoSession",
                ),
                Runtime(
                    name="reference",
                    package="onnx",
                    session="clipfast.artifacts.sessions.onnx_reference:OnnxReferenceSession",
                    for_checks=True,
                ),
            ),
            writer="clipfast.exporters.onnx.writer:write",
            is_program=False,
        ),
        Format(
            name="torchscript",
            suffix=".ts.pt",
            runtimes=(_torch("clipfast.artifacts.sessions.torchscript:TorchScriptSession"),),
            writer="clipfast.exporters.torchscript:write",
            is_program=True,
        ),
        Format(
            name="aotinductor",
            suffix=".pt2",
            runtimes=(_torch("clipfast.artifacts.sessions.aotinductor:AOTInductorSession"),),
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
