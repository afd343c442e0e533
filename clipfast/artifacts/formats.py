"""The formats of exported files, in one list that all code with format names reads. Needs no torch."""

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

    Attributes:
        name: The format's name.
        suffix: The end of its files' names, such as ".ts.pt".
        runtimes: The runtimes that run its files, the preferred one first.
        writer: "module:name" of the function that writes a file, a `clipfast.exporters.writing.Writer`.
            It is imported only when it is needed.
        is_program: Whether a file contains code that runs when the file is loaded. Sessions of such files
            take the arguments `trust` and `device`, a torch device.
    """

    name: FormatName
    suffix: str
    runtimes: tuple[Runtime, ...]
    writer: str
    is_program: bool

    def load(self, path: Path, *, runtime: str = "auto", trust: bool = False, **options: Any) -> Session:
        """Loads a file into a runtime.

        Args:
            path: The file.
            runtime: The runtime's name. "auto" selects the first installed runtime that is not only for
                checks.
            trust: Whether the file's code may run. Used only for formats that are programs.
            **options: Keyword arguments of the runtime's session.

        Returns:
            The session that has loaded the file.

        Raises:
            InputError: If the runtime does not run this format, or the session does not accept an
                option's value.
            ArtifactError: If the session cannot load the file; see the session's class.
            ModuleNotFoundError: If the runtime's package is not installed. The message names the extra.
        """
        chosen = self.runtime(runtime)
        if self.is_program:
            options["trust"] = trust
        try:
            return chosen.load(path, **options)
        except ModuleNotFoundError as error:
            raise names_extra(path.name, error) from error

    def runtime(self, name: str = "auto") -> Runtime:
        """Returns the runtime of a name.

        Args:
            name: The runtime's name. "auto" selects the first installed runtime that is not only for
                checks, or the first of those if none is installed.

        Raises:
            InputError: If no runtime of this name runs the format.
        """
        if name == "auto":
            serving = [runtime for runtime in self.runtimes if not runtime.for_checks]
            return next((runtime for runtime in serving if runtime.is_installed()), serving[0])
        for runtime in self.runtimes:
            if runtime.name == name:
                return runtime
        known = ", ".join(runtime.name for runtime in self.runtimes)
        raise InputError(f"files of {self.suffix} run in {known}, got the runtime {name!r}")

    def installed_runtimes(self) -> tuple[RuntimeName, ...]:
        """Returns the names of the installed runtimes, the preferred one first."""
        return tuple(runtime.name for runtime in self.runtimes if runtime.is_installed())

    def writes(self) -> Callable[..., None]:
        """Imports and returns the function that writes a file of this format.

        Returns:
            A `clipfast.exporters.writing.Writer`.

        Raises:
            ModuleNotFoundError: If a package that the writer needs is not installed. The message names
                the extra.
        """
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
    """Returns the format of a name.

    Raises:
        InputError: If no format has this name.
    """
    for format in FORMATS.values():
        if format.name == name:
            return format
    raise InputError(f"format must be one of {get_args(FormatName)}, got {name!r}")


def format_of(path: str | os.PathLike[str]) -> Format:
    """Returns the format that the end of a file's name stands for.

    Raises:
        ArtifactError: If the name ends with no format's suffix.
    """
    for format in FORMATS.values():
        if Path(path).name.endswith(format.suffix):
            return format
    *others, last = (format.suffix for format in FORMATS.values())
    raise ArtifactError(f"{path}: expected a file named {', '.join(others)} or {last}")
