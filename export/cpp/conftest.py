"""The C++ programs, built once for all tests by the commands that the README names."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from building import build
from made_up_metadata import METADATA

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """The folder of a fresh build."""
    folder = tmp_path_factory.mktemp("build")
    programs = ["clipfast-classify", "clipfast-parts"]
    build(
        ["cmake", "-S", HERE, "-B", folder, f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"],
        ["cmake", "--build", folder, "--parallel", "2", "--target", *programs],
    )
    return folder


@pytest.fixture
def parts(built, tmp_path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Runs clipfast-parts on the settings of an artifact: see parts.cpp."""

    def run(
        what: str, *arguments: object, text: str | None = None, **settings: object
    ) -> subprocess.CompletedProcess[bytes]:
        metadata = tmp_path / "metadata.json"
        metadata.write_text(replace(METADATA, **settings).to_json() if text is None else text)
        command = [built / "clipfast-parts", what, metadata, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, timeout=120)

    return run
