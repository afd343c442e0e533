"""Every command's standard output at a terminal where the other stream is a file, both ways round."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from hand_made import make_metadata, write_onnx
from PIL import Image
from rich.live import Live
from terminals import Seen, run_at_terminal, terminal
from tiny_budget import TINY

from clipfast import cli
from clipfast.bench import run as benchmarking
from clipfast.cli import console
from clipfast.demo import experiment
from clipfast.evaluation import budgets
from clipfast.exporters import Export, exporting
from clipfast.models.shapes import draw
from clipfast.verification import verifying
from clipfast.verification.outcome import CheckRow, Verification

N = 20
RECORDED = Path(__file__).parents[2] / "benchmarks" / "results" / "cpu.json"
# What others print, as libraries do, while progress is shown.
OUT, ERR = "out of a library", "err of a library"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Pictures, and an exported file beside them."""
    place = tmp_path_factory.mktemp("pictures")
    for i, pixels in enumerate(draw(N, seed=(200, 40)).pixels):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(place / f"{i:02d}.png")
    write_onnx(place / "lab.onnx", make_metadata())
    return place


@pytest.mark.parametrize("at", ["stdout", "stderr"])
@pytest.mark.parametrize("as_json", [True, False], ids=["json", "table"])
def test_rows_of_many_pictures_reach_standard_output(folder, tmp_path, at, as_json):
    (tmp_path / "broken.png").write_bytes(b"no image")
    options = ["--artifact", folder / "lab.onnx", "--seed", 3, *(["--json"] if as_json else [])]
    seen = run_at_terminal(["classify", folder, tmp_path / "broken.png", *options], [at], tmp_path)
    assert seen.code == 1, seen.err
    names = [f"{i:02d}.png" for i in range(N)]
    if as_json:
        assert [Path(json.loads(line)["image"]).name for line in seen.out.splitlines()] == names
    else:
        assert all(name in seen.out for name in names)
        assert f"{N} images, " in seen.out.splitlines()[-1]
    assert not any(name in seen.err for name in names)
    assert "skipped" in seen.err
    assert "1 of 21 inputs could not be read" in seen.err
    assert ("classifying" in seen.err) == (at == "stderr")
    assert "\x1b" not in seen.out + seen.err  # of the file: what the terminal got is without them


def test_rows_are_whole_lines_where_both_streams_are_the_terminal(folder, tmp_path):
    arguments = ["classify", folder, "--artifact", folder / "lab.onnx", "--json"]
    seen = run_at_terminal(arguments, ["stdout", "stderr"], tmp_path, columns=40)
    assert seen.code == 0
    assert "classifying" in seen.out
    rows = [json.loads(line) for line in seen.lines]
    assert [Path(row["image"]).name for row in rows] == [f"{i:02d}.png" for i in range(N)]


class Case(NamedTuple):
    """A command; what it prints; what it tells of its progress, if it does."""

    arguments: list[object]
    printed: tuple[str, ...]
    told: str | None


@pytest.fixture
def export(monkeypatch, tmp_path) -> Case:
    def write(classifier, path, *, progress, **_) -> Export:  # noqa: ARG001
        progress("tracing the classifier")
        metadata = make_metadata()
        rows = (CheckRow("undefended logits", 1e-5, 2e-4, 6),)
        return Export(write_onnx(path, metadata), metadata, {"onnxruntime": Verification(rows)})

    monkeypatch.setattr(exporting, "export", write)
    return Case(
        ["export", "-o", tmp_path / "a.onnx"],
        ("undefended logits", "inputs: pixels float32 [N, 3, 32, 32]", "sha256: "),
        "tracing the classifier",
    )


@pytest.fixture
def verify(monkeypatch, tmp_path) -> Case:
    def compare(self, session, progress) -> Verification:  # noqa: ARG001
        progress("comparing pictures")
        return Verification((CheckRow("undefended logits", 1e-5, 2e-4, 6),))

    monkeypatch.setattr(verifying.Comparison, "of", compare)
    file = write_onnx(tmp_path / "a.onnx", make_metadata(model_name="drawn", classnames=("red circle",)))
    return Case(["verify", file], ("undefended logits", "agrees with the reference"), "comparing pictures")


@pytest.fixture
def demo(monkeypatch, tmp_path) -> Case:
    def attack_in_chunks(system, pixels, labels, *, progress, **_):  # noqa: ARG001
        for _step in range(experiment.PGD_STEPS):
            progress()
        return pixels

    def still_right(system, pixels, labels, right, *, progress, **_):  # noqa: ARG001
        progress(1)
        return right

    monkeypatch.setattr(experiment, "attack_in_chunks", attack_in_chunks)
    monkeypatch.setattr(experiment, "still_right", still_right)
    monkeypatch.setattr(experiment, "interleaved", lambda runs: [1.0] * len(runs))
    return Case(
        ["demo", "--out", tmp_path / "demo", "--number", 8],
        ("bundled model", "TTC as published", "it shows the mechanism", "pictures and page: "),
        "attacking",
    )


@pytest.fixture
def earlier_bench() -> Case:
    return Case(["bench", "--show", RECORDED], ("ViT-B-32, default", "peak memory"), None)


@pytest.fixture
def bench(monkeypatch, tmp_path) -> Case:
    def run_benchmark(*, progress, save, **_) -> object:
        progress("round 1 of 9")
        save(result := json.loads(RECORDED.read_text()))
        return result

    monkeypatch.setattr(benchmarking, "run_benchmark", run_benchmark)
    arguments = ["bench", "--out", tmp_path / "bench.json"]
    return Case(arguments, ("ViT-B-32, default", "peak memory"), "round 1 of 9")


@pytest.fixture
def evaluation(monkeypatch, tmp_path) -> Case:
    monkeypatch.setitem(budgets.BUDGETS, "quick", TINY)
    options = ["--defences", "none", "--attacks", "pgd-10", "--images", 4, "-o", tmp_path / "out"]
    return Case(["eval", *options], ("undefended", "not a certified one", "report: "), "attacking")


@pytest.fixture
def calibration(folder, tmp_path) -> Case:
    arguments = ["calibrate", "--clean", folder, "--rate", 0.5, "-o", tmp_path / "mine.json"]
    return Case(arguments, ("clean countered low", "settings: "), "measuring drift")


@pytest.fixture
def calibration_as_json(calibration) -> Case:
    arguments, _, told = calibration
    return Case([*arguments, "--json"], ('"rule": "at most 50 %', '"drift_percentiles"'), told)


CASES = (
    "export",
    "verify",
    "demo",
    "earlier_bench",
    "bench",
    "evaluation",
    "calibration",
    "calibration_as_json",
)


@pytest.mark.parametrize("at", ["stdout", "stderr"])
@pytest.mark.parametrize("case", CASES)
def test_each_stream_gets_what_is_written_to_it(request, monkeypatch, tmp_path, case, at):
    arguments, printed, told = request.getfixturevalue(case)
    seen, shown = run_here(monkeypatch, tmp_path, arguments, at)
    assert seen.code == 0, seen.err
    for text in printed:
        assert text in seen.out
        assert text not in seen.err
    assert (seen.out.count(OUT), seen.err.count(OUT)) == (shown, 0)
    assert (seen.out.count(ERR), seen.err.count(ERR)) == (0, shown)
    if told is not None:
        assert told not in seen.out
        if at == "stderr":
            assert told in seen.err
            assert shown == 1
            assert not any(told in line for line in seen.lines)  # erased at the end
    assert "\x1b" not in seen.out + seen.err  # of the file: what the terminal got is without them


def run_here(monkeypatch, tmp_path, arguments: list[object], at: str) -> tuple[Seen, int]:
    """Runs a command in this process. How often progress began to be shown: others print then."""
    begun: list[Live] = []
    start = Live.start

    def started(live: Live, refresh: bool = False) -> None:
        start(live, refresh)
        begun.append(live)
        print(OUT)
        print(ERR, file=sys.stderr)

    other = "stderr" if at == "stdout" else "stdout"
    with (
        monkeypatch.context() as patched,
        (tmp_path / other).open("w") as file,
        terminal() as screen,
        os.fdopen(screen.theirs, "w", closefd=False) as stream,
    ):
        patched.setattr(sys, "argv", ["clipfast", *map(str, arguments)])
        patched.setattr(sys, other, file)
        patched.setattr(sys, at, stream)
        patched.setattr(Live, "start", started)
        patched.setattr(console.stderr, "is_interactive", at == "stderr")
        patched.setenv("TERM", "xterm-256color")
        patched.delenv("COLUMNS", raising=False)
        with pytest.raises(SystemExit) as exit:
            cli.main()
    texts = {at: screen.written, other: (tmp_path / other).read_text()}
    return Seen(exit.value.code or 0, texts["stdout"], texts["stderr"], screen.lines), len(begun)
