"""The edge program, built and gathered once for all tests by the commands that the README names."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import openvino.utils
import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def shipped(tmp_path_factory) -> Path:
    """The folder of the program and all that it needs, apart from the build."""
    for tool, package in (("cmake", "cmake"), ("c++", "g++"), ("make", "make")):
        if shutil.which(tool) is None:
            pytest.fail(f"the edge program needs {tool}, which is not installed: apt-get install {package}")
    build, folder = (tmp_path_factory.mktemp(name) for name in ("build", "shipped"))
    for command in (
        ["cmake", "-S", HERE, "-B", build, f"-DCMAKE_PREFIX_PATH={openvino.utils.get_cmake_path()}"],
        ["cmake", "--build", build, "--parallel", "2"],
        ["cmake", "--install", build, "--strip", "--prefix", folder],
    ):
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            pytest.fail(f"{command[:2]} failed:\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}")
    shutil.rmtree(build)
    return folder
