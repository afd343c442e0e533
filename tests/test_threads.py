from __future__ import annotations

import os
import subprocess
import sys

import pytest

from clipfast.threads import spin_briefly

CODE = """
import os, sys
from clipfast.cli import main
try:
    main()
except SystemExit:
    pass
print(os.environ.get("GOMP_SPINCOUNT"), os.environ.get("OMP_WAIT_POLICY"), "torch" in sys.modules)
"""


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, "10000 None False"),
        ({"GOMP_SPINCOUNT": "7"}, "7 None False"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None ACTIVE False"),
    ],
)
def test_the_command_line_bounds_spinning_before_torch_loads_unless_the_user_did(said, expected):
    others = {n: v for n, v in os.environ.items() if n not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", CODE, "--version"]
    done = subprocess.run(command, env=others | said, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == expected


def test_nothing_but_the_one_variable_is_set(monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    before = dict(os.environ)
    spin_briefly()
    assert dict(os.environ) == before | {"GOMP_SPINCOUNT": "10000"}
    monkeypatch.delenv("GOMP_SPINCOUNT")
