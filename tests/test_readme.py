"""What the README says is run, and its figures are the report's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bundled_models.tables import readme_table

from clipfast.evaluation.results import Results
from clipfast.models.fingerprint import fingerprint

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\S+)( no-run| paper)?\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
IMAGES = 8
COMMANDS = [
    line.split("#")[0].strip()
    for language, skipped, body in BLOCKS
    if language == "sh" and not skipped
    for line in body.splitlines()
]


def test_table_is_the_full_evaluation_s(bundled):
    folder = ROOT / "benchmarks/results"
    evaluations = [
        Results.from_json((folder / f"{name}.json").read_text())
        for name in ("evaluation_full", "evaluation_full_60")
    ]
    for results in evaluations:
        assert results.run["budget"] == "full"
        assert all(control.passed for control in results.controls)
        assert results.run["weights_sha256"] == fingerprint(bundled.image_tower.model.visual)
    assert readme_table(evaluations, "bundled model") in README
    assert len(README.splitlines()) <= 140


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the README's reader stands after the first command."""
    folder = tmp_path_factory.mktemp("reader")
    run(f"clipfast demo --out demo-out --number {IMAGES}", folder)
    return folder


def run(command: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_python_blocks_run(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    bodies = [body for language, skipped, body in BLOCKS if language == "python" and not skipped]
    assert bodies
    for body in bodies:
        exec(compile(body, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == IMAGES  # an image each


def test_python_that_needs_downloads_is_valid():
    for language, skipped, body in BLOCKS:
        if language == "python" and skipped:
            compile(body, "README.md", "exec")


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("clipfast classify")])
def test_classify_commands_run(command, folder):
    out = run(command, folder)
    if "--json" in command:
        rows = [json.loads(line) for line in out.splitlines()]
        assert len(rows) == IMAGES
        assert {row["class"] for row in rows} <= {"red heart", "red circle", "blue star"}
    else:
        assert re.search(rf"{2 * IMAGES} images, \d+ countered, \d+ answers changed", out)


def test_demo_command_is_the_one_that_make_runs():
    assert "clipfast demo --out demo-out" in COMMANDS
    assert "clipfast demo --out demo-out" in (ROOT / "Makefile").read_text()


def test_other_commands_name_what_exists():
    makefile = (ROOT / "Makefile").read_text()
    project = (ROOT / "pyproject.toml").read_text()
    for command in COMMANDS:
        program, *words = command.split()
        if program == "make":
            assert f"\n{words[0]}:" in makefile
        elif program == "pip":
            for extra in re.findall(r"\[(\w+)\]", command):
                assert f"\n{extra} = [" in project
        elif program == "python":
            assert (ROOT / words[0]).is_file()
        else:
            assert program == "clipfast"


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_ci_calls_the_readmes_test_command():
    assert "make test" in (ROOT / ".ci/run").read_text()
    assert "make test" in README
