"""What the documentation shows is run, its commands exist, and its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
import typer

from clipfast import CounterattackConfig, cli, exporters
from clipfast.exporters import export_encoder
from clipfast.models.shapes import CLASSNAMES, draw

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {str(page.relative_to(DOCS)): page.read_text(encoding="utf-8") for page in sorted(DOCS.rglob("*.md"))}
# What a reader must bring, or what stands for a line elsewhere.
SHOWN_ALONE = ("# needs", "# a row of", "# a line of", "# a sketch of")
SLOW = ("extending/tower.md",)


def blocks(text: str, language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for block in found if not block.startswith(SHOWN_ALONE)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, exported, bundled):
    """Where a reader of any page stands: what the commands of these pages write."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("reader")
    drawn = draw(4, seed=(200, 77))
    for side in ("clean", "attacked"):
        (folder / "demo-out" / side).mkdir(parents=True)
        for i, pixels in enumerate(drawn.pixels):
            name = f"{i}-{CLASSNAMES[drawn.labels[i]]}.png"
            Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / "demo-out" / side / name)
    for name, kind in (("defended.onnx", "serving"), ("page.onnx", "lab")):
        shutil.copy(exported(kind).path, folder / name)
    export_encoder(bundled.image_tower.model, folder / "encoder.onnx", verify=False)
    (folder / "gates.json").write_text(CounterattackConfig(gate="agreement", tau_threshold=0.9).to_json())
    return folder


@pytest.mark.filterwarnings("ignore:tau_threshold:clipfast.UncalibratedWarning")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if page in SLOW else ())
        for page, text in PAGES.items()
        if blocks(text, "python")
    ],
)
def test_python_runs_one_block_after_the_other(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(exporters, "export", lambda *_, **__: None)  # its files are there
    monkeypatch.setattr(exporters, "verify", lambda *_, **__: type("Outcome", (), {"agrees": True}))
    torch.manual_seed(0)
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # where dataclasses look for their names
    for block in blocks(PAGES[page], "python"):
        exec(compile(block, page, "exec"), module.__dict__)


COMMANDS = [
    (page, line.split(" #")[0])
    for page, text in PAGES.items()
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("clipfast ")
]


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_commands_and_their_options_exist(page, line):
    del page
    _, name, *words = shlex.split(line)
    if name.startswith("--"):
        return
    command = typer.main.get_command(cli.app).commands[name]  # pyright: ignore[reportAttributeAccessIssue]
    known = {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    given = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert given <= known


def test_links_lead_somewhere():
    repository = DOCS.parent
    for page, text in PAGES.items():
        text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if target.startswith("http"):
                continue
            place = ((DOCS / page).parent / target).resolve()
            # Files of the repository lie below repository/ on the site: see tools/documentation.py.
            shown = repository / str(place).removeprefix(f"{DOCS / 'repository'}/")
            assert place.exists() or shown.exists(), f"{page}: {target}"
