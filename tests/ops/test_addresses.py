"""The C++ operators under AddressSanitizer and the sanitizer of undefined behaviour."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sources import ROOT

COMPILER = shutil.which("g++")
FLAGS = "-std=c++20 -O0 -g1 -fPIC -shared -ffp-contract=off -fsanitize=address,undefined -fno-sanitize=vptr"


def sanitizer(name: str) -> Path | None:
    if COMPILER is None:
        return None
    done = subprocess.run([COMPILER, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = Path(done.stdout.strip())
    return path if path.is_absolute() else None  # the bare name where there is none


LIBRARIES = [sanitizer("libasan.so"), sanitizer("libubsan.so")]


@pytest.mark.skipif(None in LIBRARIES, reason="no GCC with sanitizers")
def test_no_operator_leaves_its_tensors(tmp_path):
    root = Path(torch.__file__).parent
    library = tmp_path / "operators.so"
    sources = sorted(str(path) for path in (ROOT / "csrc").glob("*.cpp"))
    macro = "-DTORCH_TARGET_VERSION=0x020b000000000000"
    subprocess.run(
        [str(COMPILER), *FLAGS.split(), macro, f"-I{root / 'include'}", *sources, "-o", str(library),
         f"-L{root / 'lib'}", "-ltorch_cpu"],
        check=True,
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("touch_memory.py")), str(library)],
        env={
            **os.environ,
            "LD_PRELOAD": " ".join(map(str, LIBRARIES)),
            "ASAN_OPTIONS": "detect_leaks=0",
            "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "all operators ran" in done.stdout
