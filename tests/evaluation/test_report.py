"""Verdicts, tables, CSV and page of made-up results."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_up import COLUMNS, EPS, N, make_results
from rich.console import Console

from clipfast import InputError
from clipfast.artifacts.metadata import LIMITS
from clipfast.calibration.separation import separation
from clipfast.evaluation.report import (
    caption,
    quotation,
    tables,
    verdict,
    verdicts,
    worst_case,
    write_csv,
    write_json,
    write_page,
)
from clipfast.evaluation.report.figures import figures
from clipfast.evaluation.report.sheets import accuracy, gates, spent
from clipfast.evaluation.results import Column, Control, Results

SCRIPT = "<script>alert('1')</script>"


@pytest.fixture
def results() -> Results:
    return make_results()


def system(results: Results, name: str):
    return next(system for system in results.systems if system.name == name)


def row(results: Results, name: str):
    return next(row for row in figures(results, EPS) if row.system.name == name)


def printed(results: Results, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    for table in tables(results, EPS, width=width):
        console.print(table)
    return console.export_text()


def test_the_worst_case_is_image_by_image_and_in_every_seed(results):
    gains = system(results, "gains")
    flags = np.ones((4, 2, N), bool)
    flags[0, :, 0] = False  # wrong clean
    flags[1, :, 1] = False  # wrong under a transfer attack
    flags[2, 1, 2] = False  # wrong under the other, with one seed
    flags[3, 0, 3] = False  # wrong under the adaptive one, with one seed
    gains.right = {column.key: flags[i] for i, column in enumerate(COLUMNS[:4])}
    assert worst_case(results, gains, EPS).tolist() == [False] * 4 + [True] * (N - 4)
    assert all(share.mean > (N - 2) / N for share in row(results, "gains").accuracy.values())
    assert row(results, "gains").worst.mean == (N - 4) / N


def test_an_image_right_in_no_two_columns_together_counts_for_nothing(results):
    gains = system(results, "gains")
    half = np.arange(N) < N // 2
    for i, column in enumerate(COLUMNS[:4]):
        gains.right[column.key] = np.stack([half if i % 2 else ~half] * 2)
    assert {share.mean for share in row(results, "gains").accuracy.values()} == {0.5}
    assert row(results, "gains").worst.mean == 0


def test_attacks_of_other_budgets_take_no_part(results):
    other = Column(key="pgd-10@4/255", title="PGD-10", kind="transfer", eps=4 * EPS)
    before = worst_case(results, system(results, "gains"), EPS)
    results.columns += (other,)
    system(results, "gains").right[other.key] = np.zeros((2, N), bool)
    assert worst_case(results, system(results, "gains"), EPS).tolist() == before.tolist()
    assert worst_case(results, system(results, "gains"), 4 * EPS) is None  # not attacked itself there


def test_a_system_that_was_not_attacked_itself_has_no_worst_case(results):
    unattacked = system(results, "unattacked")
    assert worst_case(results, unattacked, EPS) is None
    assert "unattacked: not attacked adaptively at 1/255" in verdict(results, unattacked, EPS)
    cells = dict(zip(accuracy(results, EPS).headings, accuracy(results, EPS).rows[4], strict=True))
    assert cells["worst case"] == "not attacked adaptively"
    assert cells["minus undefended"] == cells["adaptive: BPDA + EOT"] == "\N{EN DASH}"
    assert "transfer attacks do not know the defence" in caption(results, EPS)


def test_a_system_that_misses_a_shared_attack_has_no_worst_case(results):
    gains = system(results, "gains")
    del gains.right[COLUMNS[2].key]
    assert worst_case(results, gains, EPS) is None
    assert "gains: not under every attack" in verdict(results, gains, EPS)


def test_the_undefended_system_is_attacked_by_transfer(results):
    undefended = results.systems[0]
    expected = np.logical_and.reduce([undefended.right[c.key][0] for c in COLUMNS[:3]])
    assert worst_case(results, undefended, EPS).tolist() == expected.tolist()
    assert row(results, "undefended").gain is None
    undefended.right = {"clean": undefended.right["clean"]}
    results.columns = results.columns[:1] + results.columns[3:]
    assert worst_case(results, undefended, EPS) is None
    assert "no verdict at 1/255" in verdict(results, system(results, "harms"), EPS)


def test_verdicts_say_who_gains_who_does_nothing_and_who_harms(results):
    said = dict(zip(("gains", "nothing", "harms", "unattacked"), verdicts(results, EPS), strict=True))
    assert re.match(r"gains: gains \d+\.\d points of robustness at 1/255: worst case", said["gains"])
    assert said["gains"].endswith("an upper bound, as a stronger attack may lower it.")
    assert said["nothing"].startswith("nothing: no measurable robustness gain at 1/255: worst case")
    assert said["harms"].startswith("harms: worse than no defence at 1/255: worst case")
    found = row(results, "harms")
    low, high = (100 * bound for bound in found.gain.interval)
    worst, undefended = (100 * row(results, name).worst.mean for name in ("harms", "undefended"))
    assert f"worst case {worst:.1f} % against {undefended:.1f} % undefended, " in said["harms"]
    gain = f"{100 * found.gain.mean:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}, {N} images)"
    assert gain in said["harms"]
    assert high < 0


@pytest.mark.parametrize(("only", "gain"), [(3, False), (4, True)])
def test_two_standard_errors_are_the_line(results, only, gain):
    results.columns = COLUMNS[:2] + COLUMNS[3:4]
    # For b images that one system alone gets right: a difference of b / N, error sqrt(b - b^2 / N) / N.
    assert (only / np.sqrt(only - only**2 / N) > 2) == gain
    fewer, more = (np.stack([np.arange(N) < count] * 2) for count in (40, 40 + only))
    for undefended, defended, words in (
        (fewer, more, "gains: gains"),
        (more, fewer, "worse than no defence"),
    ):
        for name, right in (("undefended", undefended), ("gains", defended)):
            system(results, name).right = {column.key: right for column in results.columns}
        said = verdict(results, system(results, "gains"), EPS)
        assert (words in said) == gain
        assert ("no measurable robustness gain" in said) != gain


def test_a_gain_is_no_upper_bound_where_no_attack_was_short(results):
    results.columns = tuple(dataclasses.replace(column, upper_bound=False) for column in results.columns)
    assert "upper bound" not in verdict(results, system(results, "gains"), EPS)
    assert "≤" not in str(accuracy(results, EPS))


def test_the_table_has_every_figure(results):
    sheet = accuracy(results, EPS)
    harms = dict(zip(sheet.headings, sheet.rows[3], strict=True))
    gate = system(results, "harms")
    assert harms["clean"] == "95.0 ± 1.5"
    assert harms["transfer: PGD-10"] == "60.0 ± 3.5"
    assert harms["transfer, predicted labels: PGD-10"] == "58.0 ± 3.5"
    assert harms["adaptive: BPDA + EOT"] == "≤ 20.0 ± 2.8"
    assert harms["adaptive: gate evasion"] == "≤ 10.0 ± 2.1"
    assert harms["worst case"].startswith("≤ ")
    assert harms["clean countered"] == f"{100 * gate.countered['clean'].mean():.1f} %"
    passed = 1 - np.mean([gate.countered[c.key].mean() for c in COLUMNS[1:3]])
    assert float(harms["attacked passed"].removesuffix(" %")) == pytest.approx(100 * passed, abs=0.06)
    assert (harms["images/s"], harms["cost"], harms["passes"]) == ("100", "2.5x", "2.4F + 0.4B")
    undefended = dict(zip(sheet.headings, sheet.rows[0], strict=True))
    assert undefended["passes"] == "1F"
    assert undefended["attacked passed"] == "\N{EN DASH}"
    assert undefended["worst case"][0].isdigit()
    assert [name for name, *_ in sheet.rows] == [s.name for s in results.systems]


def test_the_caption_says_what_was_measured_and_how_to_read_it(results):
    said = caption(results, EPS)
    largest = max(s.standard_error for f in figures(results, EPS) for s in f.accuracy.values())
    for expected in (
        f"Percent right of {N} images, l-inf 1/255; standard errors at most {100 * largest:.1f} points",
        "same pictures for all systems (PGD-10; PGD-10, predicted labels)",
        "not the true one: PGD-10, predicted labels.",
        "(BPDA + EOT; gate evasion)",
        "≤: an upper bound",
        "\N{EN DASH}: the attack does not apply",
    ):
        assert expected in said
    quoted = "drawn, weights 0123456789ab; shapes, 200 images, 2 skipped; budget quick; seed 7, 2 rounds of "
    assert quotation(results) == f"{quoted}noise; clipfast 0.1, torch 2.15."
    assert "skipped" not in quotation(make_results(skipped=[]))
    assert "ViT-B-32 (openai)" in quotation(make_results(model="ViT-B-32", pretrained="openai"))


@pytest.mark.parametrize(
    ("shift", "found"), [(-0.5, "separates"), (0.0, "does not separate"), (0.5, "is inverted")]
)
def test_gates_that_do_not_separate_are_named(shift, found):
    results = make_results(drift_shift=shift)
    sheet = gates(results, EPS)
    assert sheet.headings == ("attack", "gate of harms")
    assert [attack for attack, _ in sheet.rows] == ["PGD-10", "PGD-10, predicted labels"]
    gate = system(results, "harms")
    for (_, cell), column in zip(sheet.rows, COLUMNS[1:3], strict=True):
        auroc = separation(gate.drift["clean"], gate.drift[column.key]).auroc
        assert re.fullmatch(rf"{found}, {auroc:.2f} \(0\.\d\d to 0\.\d\d\)", cell)
    del gate.drift[COLUMNS[2].key]
    assert gates(results, EPS).rows[1][1] == "\N{EN DASH}"
    assert gates(dataclasses.replace(results, systems=results.systems[:3]), EPS) is None


def test_gates_that_are_the_same_stand_once(results):
    twice = dataclasses.replace(system(results, "harms"), name="harms too")
    other = dataclasses.replace(twice, name="other", tau_threshold=0.5)
    results.systems += [twice, other]
    assert gates(results, EPS).headings[1:] == ("gate of harms; harms too", "gate of other")


def test_what_adaptive_attacks_spent_is_told(results):
    sheet = spent(results, EPS)
    assert sheet.rows == [("harms", "220F + 120B", "240F + 130B")]
    system(results, "harms").attack_passes.clear()
    assert spent(results, EPS) is None


def test_a_wide_terminal_gets_one_table_and_a_narrow_one_whole_figures(results):
    wide, narrow = printed(results, 250), printed(results, 100)
    (line,) = (line for line in wide.splitlines() if line.strip().startswith("gains"))
    for text in ("95.0 ± 1.5", "80.0 ± 2.8", "≤ 60.0 ± 3.5", "2.5x"):
        assert text in line
    for title in ("transfer attacks", "transfer attacks, predicted labels", "adaptive attacks"):
        assert f"accuracy at 1/255, {title}\n" in re.sub(" +\n", "\n", narrow)
    lines = [line for line in narrow.splitlines() if line.strip().startswith("gains")]
    worst = f"≤ {100 * row(results, 'gains').worst.mean:.1f}"
    assert [worst in line for line in lines] == [True, True, True, False]
    assert "…" not in narrow
    assert "80.0" in lines[0]
    assert "78.0" in lines[1]
    assert "≤ 60.0" in lines[2]
    assert "2.5x" in lines[3]


@pytest.mark.parametrize("width", [80, *range(90, 97)])
def test_the_attacks_of_the_budget_full_fit_a_terminal(width):
    recorded = Path(__file__).parents[2] / "benchmarks/results/evaluation_full_60.json"
    results = Results.from_json(recorded.read_text())
    console = Console(width=width, file=io.StringIO(), record=True)
    for table in tables(results, results.eps[0], width=width):
        console.print(table)
    text = console.export_text()
    assert "…" not in text
    assert text.count("\n fine-tuned twin ") == text.count("\n TTC ")  # no name is broken
    assert " ".join(text.split()).count("Encoder passes an image that was attacked") == 1


def test_csv_has_the_figures_to_the_last_digit(results, tmp_path):
    write_csv(results, tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = {cells["system"]: cells for cells in csv.DictReader(file)}
    assert list(rows) == [s.name for s in results.systems]
    for found in figures(results, EPS):
        cells = rows[found.system.name]
        assert (cells["model"], cells["seed"], cells["images"], cells["eps"]) == (
            "drawn",
            "7",
            "200",
            "1/255",
        )
        for column in COLUMNS:
            name, share = column.key.split("@")[0], found.accuracy.get(column.key)
            assert cells[name] == ("" if share is None else repr(share.mean))
            assert cells[f"{name} standard error"] == ("" if share is None else repr(share.standard_error))
        worst = "" if found.worst is None else repr(found.worst.mean)
        assert cells["worst case"] == worst
        gain = ["", ""] if found.gain is None else [repr(found.gain.mean), repr(found.gain.interval.high)]
        assert [cells["minus undefended"], cells["minus undefended high"]] == gain
    assert rows["gains"]["bpda upper bound"] == "True"
    assert rows["gains"]["worst case upper bound"] == "True"
    assert rows["undefended"]["worst case upper bound"] == "False"
    assert rows["harms"]["backward passes"] == "0.4"


def test_json_is_the_results(results, tmp_path):
    write_json(results, tmp_path / "results.json")
    text = (tmp_path / "results.json").read_text(encoding="utf-8")
    assert Results.from_json(text).to_json() == results.to_json()


class Outline(HTMLParser):
    """Elements that are opened and closed in order, attributes and text."""

    VOID = {"meta", "br", "img"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.headings, self.attributes, self.texts = [], [], [], []
        self.tags: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.texts.append(data)


def page(results: Results, folder) -> tuple[str, Outline]:
    path = write_page(results, folder)
    assert path == folder / "index.html"
    text = path.read_text(encoding="utf-8")
    return text, Outline(text)


def test_the_page_holds_everything_inside(results, tmp_path):
    text, outline = page(results, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["index.html"]
    for outside in ("http:", "https:", "//", "url(", "@import", "src=", "href="):
        assert outside not in text
    assert not {"script", "link", "iframe", "img"} & set(outline.tags)
    assert not [name for name, _ in outline.attributes if name.startswith("on")]


def test_the_page_says_what_was_found(results, tmp_path):
    _, outline = page(results, tmp_path)
    said = " ".join(" ".join(outline.texts).split())
    for line in (quotation(results), LIMITS):
        assert line in said
    for line in verdicts(results, EPS):
        assert line in said.replace(" :", ":")
    for control in results.controls:
        assert f"passed {control.name}: {control.detail}" in said
    assert outline.tags.count("svg") == outline.tags.count("figure") == 5  # drift, ROC, cost, two curves
    labels = [value for name, value in outline.attributes if name == "aria-label"]
    assert len(labels) == 5 + 3  # the plots and the tables
    assert all(labels)
    assert "AUROC" in said
    assert "The gate separates: attacked pictures measure lower than clean ones" in said
    assert "below 0.5 attacked pictures measure higher than clean ones" in said  # the sheet of gates
    assert "below it attacked pictures measure higher than clean ones" in said  # the ROC
    assert "drift less" not in said
    assert '"eps": 0.01568627450980392' in said  # of the settings
    assert "Skipped pictures" not in said


def test_skipped_pictures_are_listed(tmp_path):
    skipped = [["a/1.png", f"broken {SCRIPT}"], ["b/2.png", "empty"]]
    results = make_results(skipped=skipped)
    assert "200 images, 2 skipped" in quotation(results)
    text, outline = page(results, tmp_path)
    said = " ".join(" ".join(outline.texts).split())
    assert f"Skipped pictures a/1.png: broken {SCRIPT} b/2.png: empty" in said
    assert "<script" not in text


def test_a_failed_control_is_said_first(results, tmp_path):
    results.controls.append(Control("EOT flattens", False, "falls by 9 points"))
    _, outline = page(results, tmp_path)
    said = " ".join(outline.texts)
    assert said.index("Controls failed (EOT flattens)") < said.index("worst case")
    assert "failed" in said[said.index("falls by 9 points") - 40 :]
    results.controls.clear()
    assert "No control shows that the attacks are strong" in " ".join(page(results, tmp_path)[1].texts)


def test_text_of_others_is_escaped_wherever_it_stands(tmp_path):
    results = make_results(model=SCRIPT, data=SCRIPT, budget=SCRIPT)
    results.columns = tuple(dataclasses.replace(c, title=f"{c.title}{SCRIPT}") for c in results.columns)
    system(results, "harms").drift[COLUMNS[2].key] *= 10  # so that what its gate does is said by attack
    for one in results.systems:
        one.name += SCRIPT
    results.by_eps = {name + SCRIPT: points for name, points in results.by_eps.items()}
    results.controls = [Control(SCRIPT, True, SCRIPT)]
    text, outline = page(results, tmp_path)
    assert "<script" not in text
    assert "script" not in outline.tags
    assert SCRIPT in " ".join(outline.texts)
    labels = [value for name, value in outline.attributes if name == "aria-label"]
    assert any(SCRIPT in label for label in labels)


def test_a_dollar_is_a_dollar(tmp_path):
    assert "$style and $$" in page(make_results(data="$style and $$"), tmp_path)[0]


def test_results_without_gates_curves_or_speed_have_a_page(tmp_path):
    results = make_results()
    results.by_eps, results.by_samples = {}, {}
    for one in results.systems:
        one.cost = one.images_per_second = None
        one.drift, one.countered, one.passes, one.attack_passes = {}, {}, {}, {}
    _, outline = page(results, tmp_path)
    assert "svg" not in outline.tags
    assert outline.tags.count("table") == 1


def test_a_folder_that_is_not_there_is_named(results, tmp_path):
    for write in (write_json, write_csv):
        with pytest.raises(InputError, match="cannot write"):
            write(results, tmp_path / "gone" / "file")
    with pytest.raises(InputError, match="cannot write"):
        write_page(results, tmp_path / "gone")
