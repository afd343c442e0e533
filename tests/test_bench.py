from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from pathlib import Path

import pytest
from rich.console import Console
from towers import make_tower
from typer.testing import CliRunner

from clipfast import InputError, cli
from clipfast.bench import run as benchmarking
from clipfast.bench.busy import one_core_busy
from clipfast.bench.columns import Towers, check, closure, names
from clipfast.bench.cost_plot import draw_costs
from clipfast.bench.plan import BARS, Job, jobs
from clipfast.bench.result_tables import result_tables
from clipfast.bench.run import run_benchmark, summary, write_result
from clipfast.bench.scenario import Scenario, make_images
from clipfast.encoders.vit import VitEncoder
from clipfast.measurement.interleave import ratio, rounds

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def row(model: str = "ViT-B-32", batch: int = 8, countered: int = 0, regime: str = "default", **seconds):
    columns = {
        "reference": [6.0, 8.0, 7.0],
        "reference early return": [3.0, 3.0, 3.0],
        "reference bf16": [4.0, 4.0, 4.0],
        "engine fp32": [2.0, 2.0, 1.0],
        "engine bf16": [1.0, 1.0, 1.0],
        "undefended eager fp32": [1.0, 1.0, 1.0],
        "undefended packed fp32": [0.9, 0.5, 0.8],
        "undefended eager bf16": [0.4, 0.5, 0.6],
        **seconds,
    }
    scenario = Scenario(model=model, batch=batch, countered=countered, rounds=3)
    return {"regime": regime, "scenario": scenario.to_dict(), "seconds": columns}


def text(result) -> str:
    console = Console(width=250, record=True, file=io.StringIO())
    for table in result_tables(result):
        console.print(table)
    return console.export_text()


def test_ratios_are_paired_before_the_median():
    paired = ratio([6.0, 8.0, 7.0, 9.0], [2.0, 8.0, 1.0, 3.0])  # 3, 1, 7, 3
    assert (paired.median, paired.low, paired.high) == (3.0, 2.5, 4.0)
    single = ratio([4.0], [2.0])
    assert (single.median, single.low, single.high) == (2.0, 2.0, 2.0)


def test_every_column_runs_once_a_round_in_changing_order():
    ran: list[str] = []
    columns = {name: lambda name=name: ran.append(name) for name in "abcd"}
    measured = list(rounds(columns, 5))
    assert len(measured) == 5
    assert all(set(seconds) == set("abcd") and min(seconds.values()) > 0 for seconds in measured)
    orders = ["".join(ran[i : i + 4]) for i in range(0, len(ran), 4)]
    assert len(orders) == 6  # one of them to warm up
    assert all(sorted(order) == list("abcd") for order in orders)
    assert len(set(orders)) > 1


def test_summary_states_cost_over_the_fastest_undefended_form_of_the_same_precision():
    figures = summary(row())
    assert figures["milliseconds"]["reference"] == 7000
    engines = figures["engines"]
    assert engines["engine fp32"]["floor"] == "undefended packed fp32"
    assert engines["engine bf16"]["floor"] == "undefended eager bf16"
    assert engines["engine fp32"]["over_reference"].median == 4.0  # of 3, 4 and 7
    assert engines["engine fp32"]["over_floor"].median == pytest.approx(2 / 0.9)  # of 2.2, 4 and 1.25
    assert engines["engine bf16"]["over_reference_same_precision"].median == 4.0
    assert "over_reference_same_precision" not in engines["engine fp32"]


def test_bars_count_in_the_worse_regime():
    slow = [2.0, 2.0, 2.0]
    result = {
        "device": "cpu",
        "rows": [row(), row(regime="large thresholds", **{"engine fp32": slow})],
        "peaks": [],
    }
    shown = text(result)
    assert re.search(r"batch 8, 0 countered\W+fp32 over reference\W+>= 4.5\W+3.50\W+missed", shown)
    assert re.search(r"batch 8, 0 countered\W+bf16 time over floor\W+<= 2.15\W+2.00\W+met", shown)


def test_a_busy_machine_has_bars_of_its_own():
    idle = row(batch=1)
    busy = row(batch=1, regime="one core busy", **{"engine fp32": [1.5, 1.5, 1.5]})
    busy["seconds"]["undefended eager fp32"] = [1.0, 1.0, 1.0]
    shown = text({"device": "cpu", "rows": [idle, busy], "peaks": []})
    assert re.search(
        r"batch 1, 0 countered\W+one core busy: fp32 over reference\W+>= 5\W+4.67\W+missed", shown
    )
    assert re.search(r"one core busy: fp32 time over undefended eager\W+<= 1\W+1.50\W+missed", shown)
    alone = text({"device": "cpu", "rows": [idle], "peaks": []})
    figures = re.findall(r"batch 1, 0 countered\W+fp32 over reference\W+>= 7\W+(\S+)", shown)
    assert figures == re.findall(r"batch 1, 0 countered\W+fp32 over reference\W+>= 7\W+(\S+)", alone)
    assert "one core busy" not in alone


def test_another_process_keeps_a_core_busy(monkeypatch):
    started = []

    class Process:
        pid = 1234

        def __init__(self, command, *, env) -> None:
            started.append((command[0], env["OMP_NUM_THREADS"]))

        def kill(self) -> None:
            started.append("killed")

        def wait(self) -> None:
            started.append("gone")

    monkeypatch.setattr("clipfast.bench.busy.subprocess.Popen", Process)
    monkeypatch.setattr("clipfast.bench.busy.time.sleep", lambda _: None)
    monkeypatch.setattr("os.sched_setaffinity", lambda pid, cores: started.append((pid, len(cores))))
    with contextlib.suppress(KeyError), one_core_busy():
        assert started == [(sys.executable, "1"), (1234, 1)]
        raise KeyError
    assert started[2:] == ["killed", "gone"]


@pytest.mark.parametrize("countered", [0, 3, 8])
def test_the_gate_is_forced_whatever_noise_is_drawn(countered):
    towers = Towers(make_tower(gain=8.0), compile=False, precisions=("fp32",))
    images = make_images(towers.eager, 8, countered)
    assert int(images.countered.sum()) == countered
    for _ in range(5):
        closure("engine fp32", towers, images)()
    images.countered.logical_not_()
    with pytest.raises(RuntimeError, match=f"expected {8 - countered} countered images, got {countered}"):
        closure("engine fp32", towers, images)()


def test_every_column_runs():
    towers = Towers(make_tower(gain=8.0), compile=False, precisions=("fp32", "bf16"))
    images = make_images(towers.eager, 2, 1)
    for name in names(towers):
        closure(name, towers, images)()


def test_a_wrong_engine_gets_no_figure(monkeypatch):
    towers = Towers(make_tower(gain=8.0), compile=False, precisions=("fp32",))
    images = make_images(towers.eager, 4, 4)
    check(towers, images, "fp32")
    right = VitEncoder.input_gradient
    monkeypatch.setattr(VitEncoder, "input_gradient", lambda *args: -right(*args))
    with pytest.raises(RuntimeError, match="engine fp32 is not the reference"):
        check(towers, images, "fp32")


def test_a_failing_process_is_told_with_what_it_said(monkeypatch):
    scenario = Scenario(model="no-such-model", batch=1, countered=0, rounds=1)
    job = Job(regime="default", scenarios=(scenario,))
    monkeypatch.setattr(benchmarking, "jobs", lambda *_, **__: [job])
    with pytest.raises(RuntimeError, match="no-such-model"):
        run_benchmark(device="cpu", threads=1, quick=True, progress=lambda _: None, save=lambda _: None)


def test_result_is_written_whole(tmp_path):
    path = tmp_path / "bench.json"
    write_result({"rows": []}, path)
    with pytest.raises(TypeError):
        write_result({"rows": [object()]}, path)
    assert json.loads(path.read_text()) == {"rows": []}
    assert list(tmp_path.iterdir()) == [path]


def test_plot_is_drawn_and_says_what_is_missing(tmp_path):
    result = {"device": "cpu", "rows": [row(), row(countered=8)], "peaks": []}
    draw_costs(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000
    with pytest.raises(InputError, match="two countered shares or more"):
        draw_costs({"device": "cpu", "rows": [row()], "peaks": []}, tmp_path / "none.png")


def test_command_shows_an_earlier_run(tmp_path):
    path = tmp_path / "bench.json"
    write_result({"device": "cpu", "rows": [row()], "peaks": []}, path)
    shown = CliRunner().invoke(cli.app, ["bench", "--show", str(path)])
    assert shown.exit_code == 0
    assert "ViT-B-32, default: milliseconds" in shown.stdout.replace("\n", " ")


def test_plan_holds_every_bar():
    measured = {
        (job.regime, s.batch, s.countered)
        for job in jobs("cpu", quick=False)
        for s in job.scenarios
        if s.model == "ViT-B-32" and s.rounds
    }
    for bar in BARS:
        for regime in (
            "default",
            "large thresholds",
            *(["one core busy"] if bar.busy_over_reference else []),
        ):
            assert (regime, bar.batch, bar.countered) in measured


def test_the_page_s_bars_are_the_recorded_ones():
    recorded = json.loads((RESULTS / "cpu.json").read_text())
    cells = re.findall(r"│([^│\n]+)│([^│\n]+)│([^│\n]+)│([^│\n]+)│([^│\n]+)│", text(recorded))
    bars = [tuple(cell.strip() for cell in line) for line in cells if line[4].strip() in ("met", "missed")]
    assert len(bars) == 4 * 5 + 1
    page = (RESULTS.parent / "README.md").read_text()
    for line in bars:
        assert "| " + " | ".join(line) + " |" in page, line
