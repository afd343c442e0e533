"""`clipfast eval`: what it prints, the README's commands on small data, and its mistakes."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from small_copies import COPIES
from tiny_budget import TINY

from clipfast.cli import console
from clipfast.evaluation import budgets
from clipfast.evaluation.datasets import PAPER
from clipfast.evaluation.results import Results

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


NAMED = ("--model", "ViT-B-32-quickgelu", "--pretrained", "openai")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setitem(budgets.BUDGETS, "quick", TINY)
    monkeypatch.setenv("COLUMNS", "160")


def test_prints_tables_verdicts_and_where_the_report_is(run, tmp_path):
    out = tmp_path / "report"
    code, printed, _ = run(
        "eval", "--defences", "blur", "--attacks", "pgd-10,bpda", "--eps", "2/255", "--images", 4, "-o", out
    )
    assert code == 0
    said = " ".join(printed.split())
    assert "3x3 blur" in said
    assert "an upper bound" in said
    assert re.search("3x3 blur: (no measurable robustness gain|gains|worse than no defence)", said)
    assert "not a certified one" in said
    assert f"report: {out}" in said
    results = Results.from_json((out / "results.json").read_text())
    assert results.eps == (2 / 255,)
    assert results.run["data"] == "drawn"


def test_a_log_shows_progress_in_lines(run, tmp_path, monkeypatch):
    monkeypatch.setattr(console, "SECONDS_A_LINE", 0.0)
    code, _, err = run(
        "eval", "--defences", "none", "--attacks", "pgd-10", "--images", 4, "-o", tmp_path / "out"
    )
    assert code == 0
    lines = re.findall(r"^drawn: (.*): +(\d+) %, \d+:\d\d:\d\d left$", err, re.MULTILINE)
    for stretch in ("reading pictures", "attacking", "curves and controls"):
        shares = [int(share) for told, share in lines if told == stretch]
        assert shares == sorted(shares)
        assert shares[0] < 100 == shares[-1]


def test_shards_and_their_gathering(run, tmp_path):
    options = ("eval", "--defences", "none", "--attacks", "pgd-10", "--images", 4, "--chunk", 2)
    for i in (1, 2):
        code, printed, _ = run(*options, "--shard", f"{i}/2", "-o", tmp_path / str(i))
        assert code == 0
        assert "gather them with --from" in " ".join(printed.split())
    code, _, _ = run(*options, "--from", tmp_path / "1", "--from", tmp_path / "2", "-o", tmp_path / "all")
    assert code == 0
    assert (tmp_path / "all" / "index.html").exists()


@pytest.mark.usefixtures("registered")
def test_the_readmes_table_1_command_runs_on_small_copies_of_the_papers_data(run, tmp_path, monkeypatch):
    (command,) = re.findall(r"^```sh paper\n(.*)\n```$", README, re.MULTILINE)
    for name in PAPER:
        COPIES[name](tmp_path / "DATA", monkeypatch)
    torch.manual_seed(0)
    save_file(open_clip.create_model("tiny-test").state_dict(), tmp_path / "weights.safetensors")
    stand_ins = {"ViT-B-32-quickgelu": "tiny-test", "openai": "weights.safetensors", "10000": "4"}
    monkeypatch.chdir(tmp_path)
    program, *words = shlex.split(command)
    assert program == "clipfast"
    code, printed, err = run(*(stand_ins.get(word, word) for word in words))
    assert code == 0, err
    assert "percent right, PGD-10 / clean, l-inf 1/255" in printed
    for name in (*PAPER, "average"):
        assert re.search(rf"{name} +│ +\d+\.\d / +\d+\.\d", printed), printed
    with (tmp_path / "table1" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["system"], row["column"]) for row in rows[:3]] == [
        ("undefended", "clean"),
        ("undefended", "PGD-10"),
        ("random noise", "clean"),
    ]
    assert {row["system"] for row in rows} >= {"TTE", "TTC"}
    for row in rows:
        shares = [float(row[name]) for name in PAPER]
        assert all(0 <= share <= 1 for share in shares)
        assert float(row["average"]) == pytest.approx(sum(shares) / 16)
    assert all((tmp_path / "table1" / name / "index.html").exists() for name in PAPER)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--eps", "1/255,2"), "expected a budget as 1/255, above 0 and at most 1, got '2'"),
        (("--eps", "1/0"), "expected a budget as 1/255"),
        (("--shard", "1-2"), "expected --shard i/n, got '1-2'"),
        (("--shard", "0/2"), "expected a shard i/n with 1 <= i <= n, got 0/2"),
        (("--attacks", "nothing"), "expected attacks of pgd-10"),
        (("--data", "no-such-place"), "--data no-such-place needs --model"),
        (("--pretrained", "openai"), "needs --model"),
        (("--model", "ViT-B-32"), "--model ViT-B-32 needs --pretrained"),
        ((*NAMED, "--data", "cifar10"), "cifar10 needs root (--root)"),
        ((*NAMED, "--data", "no-such-place"), "no data set or folder 'no-such-place'"),
        (("--from", "gone"), "expected the folder of an evaluation, got gone"),
    ],
)
def test_mistakes_end_with_a_message_and_code_2(run, tmp_path, options, message):
    code, out, err = run("eval", *options, "-o", tmp_path / "report")
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert not (tmp_path / "report").exists()
