"""AOTInductor's packages."""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError
from ...torch_private import aoti_load_package
from ..fields import KEY
from .torch_program import Program, TorchSession

__all__ = ["AOTInductorSession"]


class AOTInductorSession(TorchSession):
    """A package that was compiled for one kind of device and processor.

    Arguments and other errors are those of `TorchSession`.

    Raises:
        InputError: If the package was compiled for a kind of device other than `device`.
    """

    def _load(self, path: Path) -> tuple[Program, str | None]:
        index = -1 if self.device.index is None else self.device.index
        program = aoti_load_package(path, device_index=index)
        entries = program.get_metadata()
        if (made_for := entries.get("AOTI_DEVICE_KEY")) != self.device.type:
            raise InputError(f"{path.name} was compiled for {made_for}, got device {str(self.device)!r}")
        return program, entries.get(KEY)
