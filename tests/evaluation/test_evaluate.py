"""A whole evaluation: its figures, its folder, how it is stopped and goes on, shards, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_budget import EPS, TINY

from clipfast import InputError
from clipfast.attacks import Attack
from clipfast.evaluation import budgets
from clipfast.evaluation import evaluate as session
from clipfast.evaluation.datasets import find_dataset
from clipfast.evaluation.defences import DEFENCES
from clipfast.evaluation.evaluate import EvaluationRequest, evaluate_request
from clipfast.evaluation.report import worst_case
from clipfast.evaluation.results import Results
from clipfast.models.bundled import bundled_defaults, bundled_folder


class Silent:
    """Progress that stops the run at its n-th advance, if told so."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.advances, self._stop_at = 0, stop_at
        self.stretches: list[list[float]] = []  # totals, and what was done

    def start(self, description: str, total: float) -> None:  # noqa: ARG002
        self.stretches.append([total, 0.0])

    def advance(self, done: float) -> None:
        self.advances += 1
        self.stretches[-1][1] += done
        if self.advances == self._stop_at:
            raise KeyboardInterrupt


class Pair:
    """Classifiers that are there already, whatever model is asked for."""

    recommended = bundled_defaults(bundled_folder("drawn")).config

    def __init__(self, *classifiers) -> None:
        self._classifiers = classifiers

    def classifiers(self, _):
        return self._classifiers


@pytest.fixture(autouse=True, scope="module")
def _tiny(bundled, twin):
    """A budget of seconds, on models that are loaded once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(budgets.BUDGETS, "quick", TINY)
        patch.setattr(session, "ModelPair", lambda *_, **__: Pair(bundled, twin))
        yield


def request(out: Path, **options) -> EvaluationRequest:
    return EvaluationRequest(
        **{"data": "drawn", "out": out, "eps": [EPS], "chunk": 4, "defences": ["ttc"], **options}
    )


def results_of(out: Path, **options) -> Results:
    (results,) = evaluate_request(request(out, **options), Silent()).values()
    return results


def comparable(out: Path) -> dict:
    """A report's JSON without times, which no two runs share."""
    values = json.loads((out / "results.json").read_text())
    for system in values["systems"]:
        system["images_per_second"] = system["cost"] = None
    return values


@pytest.fixture(scope="module")
def finished(_tiny, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    evaluate_request(request(out), Silent())
    return out


def test_the_folder_holds_the_report_in_every_form(finished):
    assert {file.name for file in finished.iterdir()} == {
        "run.json", "parts", "results.json", "results.csv", "index.html",
    }  # fmt: skip
    results = Results.from_json((finished / "results.json").read_text())
    assert [system.name for system in results.systems] == ["undefended", "TTC"]
    assert results.run["images"] == 8
    assert "steps=2, step_size=None, samples=2" in results.run["settings"]["attacks"]["bpda@2/255"]
    assert results.run["settings"]["defences"]["TTC"]["eps"] == pytest.approx(4 / 255)
    assert [column.key for column in results.columns] == [
        "clean", "pgd-10@2/255", "square@2/255", "pgd-10, predicted labels@2/255",
        "bpda@2/255", "gate@2/255", "retries@2/255",
    ]  # fmt: skip
    assert len(results.controls) > 4


def test_clean_flags_are_the_classifiers_answers(finished, bundled):
    results = Results.from_json((finished / "results.json").read_text())
    images = find_dataset("drawn").take(bundled.preprocess, 8, seed=0)
    for system, logits in zip(
        results.systems,
        (bundled.undefended(images.pixels), bundled.predict(images.pixels, seed=0).logits),
        strict=True,
    ):
        expected = (logits.argmax(1) == images.labels).numpy()
        np.testing.assert_array_equal(system.right["clean"], expected[None])
    prediction = bundled.predict(images.pixels, seed=0)
    np.testing.assert_allclose(results.systems[1].drift["clean"], prediction.drift, rtol=2e-4)
    np.testing.assert_array_equal(results.systems[1].countered["clean"], prediction.countered)


def test_adaptive_flags_are_cumulative_and_attacks_that_do_not_apply_have_none(finished):
    undefended, ttc = Results.from_json((finished / "results.json").read_text()).systems
    for system, keys in ((undefended, ["bpda"]), (ttc, ["bpda", "gate", "retries"])):
        alive = system.right["clean"].all(axis=0)
        assert [key.split("@")[0] for key in system.attack_passes] == keys
        for key in keys:
            right = system.right[f"{key}@2/255"].all(axis=0)
            assert not (right & ~alive).any()
            alive = right
    assert "gate@2/255" not in undefended.right
    assert undefended.right["pgd-10@2/255"].sum() < undefended.right["clean"].sum()


def test_passes_are_counted(finished):
    undefended, ttc = Results.from_json((finished / "results.json").read_text()).systems
    assert (undefended.passes["clean"].forward, undefended.passes["clean"].backward) == (1, 0)
    countered = ttc.countered["clean"].mean()
    assert ttc.passes["clean"].forward == pytest.approx(2 + 2 * countered)
    assert ttc.passes["clean"].backward == pytest.approx(2 * countered)
    attack = undefended.attack_passes["bpda@2/255"]
    assert 0 < attack.backward <= 2  # steps, fewer where images break


@pytest.mark.parametrize("stop_at", [1, 30])
def test_a_run_that_was_stopped_goes_on_to_the_same_report(tmp_path, finished, stop_at):
    with pytest.raises(KeyboardInterrupt):
        evaluate_request(request(tmp_path / "run"), Silent(stop_at))
    assert not (tmp_path / "run" / "results.json").exists()
    evaluate_request(request(tmp_path / "run"), Silent())
    assert comparable(tmp_path / "run") == comparable(finished)


def test_progress_of_pictures_and_attacks_ends_at_its_total(tmp_path):
    for _ in ("anew", "from the parts"):
        evaluate_request(request(tmp_path / "run"), progress := Silent())
        reading, attacking, curves = progress.stretches
        assert reading == [8, 8]
        assert attacking[0] == attacking[1]
        assert 0.5 < curves[1] / curves[0] <= 1  # images that are wrong anyway are not attacked


def test_another_defence_attacks_nothing_again(tmp_path, finished, monkeypatch):
    ran = []
    before = Attack.run

    def spied(self, target, *args, **kwargs):
        ran.append((self.name, getattr(target, "name", None)))
        return before(self, target, *args, **kwargs)

    monkeypatch.setattr(Attack, "run", spied)
    results = results_of(tmp_path / "more", defences=["ttc", "blur"], parts_from=[finished])
    assert {target for _, target in ran} == {"3x3 blur"}
    assert {name for name, _ in ran} == {"bpda"}
    old = Results.from_json((finished / "results.json").read_text())
    assert results.systems[0].right.keys() == old.systems[0].right.keys()
    for mine, theirs in zip((results.systems[0], results.systems[2]), old.systems, strict=True):
        for key, flags in theirs.right.items():
            np.testing.assert_array_equal(mine.right[key], flags)


def test_shards_gathered_are_the_whole_and_attack_nothing_again(tmp_path, finished, monkeypatch):
    folders = [tmp_path / "1", tmp_path / "2"]
    for index, folder in enumerate(folders):
        progress = Silent()
        assert evaluate_request(request(folder, shard=(index, 2)), progress) is None
        assert not (folder / "results.json").exists()
        _, attacking, curves = progress.stretches
        assert attacking[0] == attacking[1]
        assert 0 < curves[1] <= curves[0]
    assert not {f.name for f in (folders[0] / "parts").iterdir()} & {
        f.name for f in (folders[1] / "parts").iterdir()
    }
    monkeypatch.setattr(Attack, "run", None)
    evaluate_request(request(tmp_path / "whole", parts_from=folders), Silent())
    assert comparable(tmp_path / "whole") == comparable(finished)


def test_more_shards_than_chunks_are_refused(tmp_path):
    with pytest.raises(InputError, match="expected at most as many shards as chunks, 2"):
        evaluate_request(request(tmp_path / "run", shard=(2, 3)), Silent())


def test_many_data_sets_and_their_shards(tmp_path, bundled, monkeypatch):
    folders = [tmp_path / "one", tmp_path / "two"]
    for shade, folder in enumerate(folders):
        for name in bundled.classnames[:3]:
            (folder / name).mkdir(parents=True)
            Image.new("RGB", (96, 96), (90 * shade, 80, 70)).save(folder / name / "0.png")
    monkeypatch.setattr(session, "PAPER", tuple(map(str, folders)))
    options = {"data": "paper", "model": "stand-in", "pretrained": "weights", "chunk": 2}
    options |= {"attacks": ["pgd-10"], "defences": ["none"]}
    ran = []
    before = Attack.run
    monkeypatch.setattr(Attack, "run", lambda self, *a, **o: ran.append(o["eps"]) or before(self, *a, **o))
    shards = [tmp_path / "1", tmp_path / "2"]
    for i, shard in enumerate(shards):
        evaluate_request(request(shard, **options, shard=(i, 2)), Silent())
        assert len(ran) == 4 * (i + 1)  # two data sets, from true and from predicted labels
    results = evaluate_request(request(tmp_path / "all", **options, parts_from=shards), Silent())
    assert list(results) == ["one", "two"]
    assert len(ran) == 8  # nothing was made again; flat pictures are wrong anyway, and draw no curves
    assert (tmp_path / "all" / "summary.csv").exists()


def test_another_seed_makes_another_run(tmp_path, finished):
    evaluate_request(request(tmp_path / "other", seed=1), Silent())
    assert comparable(tmp_path / "other")["systems"] != comparable(finished)["systems"]


def test_an_image_counts_in_the_worst_case_only_if_it_is_right_in_every_round(tmp_path):
    results = results_of(tmp_path / "run", seeds=3, attacks=["pgd-10", "bpda"])
    ttc = results.systems[1]
    assert ttc.right["clean"].shape == (3, 8)
    flags = [ttc.right[c.key].all(axis=0) for c in results.columns]
    np.testing.assert_array_equal(worst_case(results, ttc, EPS), np.logical_and.reduce(flags))


def test_only_images_that_are_right_in_every_round_are_attacked_on(tmp_path):
    results = results_of(tmp_path / "run", images=24, chunk=24, seeds=3, attacks=["bpda", "gate"])
    right = results.systems[1].right
    first, second = (right[f"{name}@2/255"] for name in ("bpda", "gate"))
    assert (first.any(axis=0) & ~first.all(axis=0)).any()
    assert not second[:, ~first.all(axis=0)].any()


def test_each_defence_can_be_evaluated(tmp_path):
    results = results_of(
        tmp_path / "run", defences=list(DEFENCES), images=3, chunk=3, attacks=["pgd-10", "bpda", "gate"]
    )
    assert len({system.name for system in results.systems}) == len(DEFENCES)
    for system in results.systems:
        assert "bpda@2/255" in system.right
        assert system.passes["clean"].forward >= 1
        assert system.cost is not None
    settings = results.run["settings"]["defences"]
    assert settings["CLIPure-Cos"] == {"step_size": 30.0, "steps": 10}
    assert settings["ET3"] == {"eps": 5 / 255, "step_size": 2.5, "steps": 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attacks": ["pgd10"]}, "expected attacks of pgd-10, .*, got pgd10"),
        ({"defences": ["ttc", "magic"]}, "expected defences of none, .*, got magic"),
        ({"eps": []}, "expected at least one eps"),
        ({"eps": [1 / 255, 0.0039215686]}, "expected each eps once, got 1/255, 1/255"),
        ({"attacks": []}, "expected at least one attack, got none"),
        ({"defences": []}, "expected at least one defence, got none"),
        ({"parts_from": [Path("gone")]}, "expected the folder of an evaluation, got gone"),
        ({"budget": "huge"}, "expected a budget of quick, full, got 'huge'"),
        ({"shard": (2, 2)}, "expected a shard i/n with 1 <= i <= n, got 3/2"),
        ({"data": "cifar10"}, "--data cifar10 needs --model"),
        ({"seeds": 0}, "expected seeds of at least 1, got 0"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        evaluate_request(request(tmp_path / "run", **options), Silent())
    assert not (tmp_path / "run").exists()


def test_a_twin_needs_its_checkpoint(tmp_path, bundled, monkeypatch):
    monkeypatch.setattr(session, "ModelPair", lambda *_, **__: Pair(bundled, None))
    with pytest.raises(InputError, match="defence 'twin' needs a fine-tuned tower: --checkpoint"):
        evaluate_request(request(tmp_path / "run", defences=["twin"]), Silent())


def test_a_folder_of_another_run_is_refused(finished):
    with pytest.raises(InputError, match="another run's: it differs in pixels_sha256, seed"):
        evaluate_request(request(finished, seed=5), Silent())


def test_unreadable_pictures_are_listed_in_the_report(tmp_path, bundled):
    folder = tmp_path / "data"
    for name in bundled.classnames[:2]:
        (folder / name).mkdir(parents=True)
        for i in range(2):
            colour = tuple(torch.randint(256, (3,)).tolist())
            Image.new("RGB", (96, 96), colour).save(folder / name / f"{i}.png")
    broken = folder / bundled.classnames[0] / "broken.png"
    broken.write_bytes(b"no picture")
    asked = replace(
        request(tmp_path / "run", attacks=["pgd-10"]),
        data=str(folder),
        model="stand-in",
        pretrained="weights",
    )
    (results,) = evaluate_request(asked, Silent()).values()
    assert results.run["images"] == 4
    assert [name for name, _ in results.run["skipped"]] == [f"{bundled.classnames[0]}/broken.png"]
