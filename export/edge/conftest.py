"""The edge program, built and gathered once for all tests by the commands that the README names."""

from __future__ import annotations

import shutil
from pathlib import Path

import openvino.utils
import pytest
from building import build

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def shipped(tmp_path_factory) -> Path:
    """The folder of the program and all that it needs, apart from the build."""
    made, folder = (tmp_path_factory.mktemp(name) for name in ("build", "shipped"))
    build(
        ["cmake", "-S", HERE, "-B", made, f"-DCMAKE_PREFIX_PATH={openvino.utils.get_cmake_path()}"],
        ["cmake", "--build", made, "--parallel", "2"],
        ["cmake", "--install", made, "--strip", "--prefix", folder],
    )
    shutil.rmtree(made)
    return folder
