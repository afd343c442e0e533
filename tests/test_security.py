"""Each promise in SECURITY.md names a test that there is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_promises_have_tests():
    named = re.findall(r"`((?:tests|export)/\S+?)::(\w+)`", TEXT)
    assert len(named) > 30
    for file, name in named:
        functions = ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
        assert any(isinstance(f, ast.FunctionDef) and f.name == name for f in functions), f"{file}::{name}"
    table = TEXT.partition("## What is promised")[2].partition("## What is not")[0]
    rows = [
        row for row in table.splitlines() if row.startswith("|") and not row.endswith(("| test |", "--- |"))
    ]
    assert len(rows) > 20
    assert all("::test_" in row for row in rows), rows
