"""`clipfast calibrate` on folders of pictures, and what reads what it writes."""

from __future__ import annotations

import copy
import json
import re
import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from clipfast import CounterattackConfig, DefendedClassifier, InputError, UncalibratedWarning
from clipfast.artifacts.metadata import Metadata
from clipfast.attacks.pgd10 import attack_in_chunks
from clipfast.attacks.system import undefended
from clipfast.calibration.calibrating import folder_labels, measure
from clipfast.calibration.separation import separation
from clipfast.calibration.threshold import report_path
from clipfast.cli import console
from clipfast.exporters import export
from clipfast.exporters.onnx import writer as to_onnx
from clipfast.models.bundled import bundled_folder, load_bundled
from clipfast.models.checkpoint import load_image_tower
from clipfast.models.fingerprint import fingerprint
from clipfast.models.shapes import CLASSNAMES, draw
from clipfast.preprocess import image_files

N = 20
DRAWN = bundled_folder("drawn")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Class folders of drawn pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    drawn = draw(N, seed=(200, 31))
    for i, (pixels, label) in enumerate(zip(drawn.pixels, drawn.labels, strict=True)):
        place = folder / CLASSNAMES[label].replace(" ", "_")
        place.mkdir(exist_ok=True)
        Image.fromarray(pixels.transpose(1, 2, 0)).save(place / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def few(pictures, tmp_path_factory):
    """Every second of them."""
    folder = tmp_path_factory.mktemp("few")
    for file in sorted(pictures.rglob("*.png"))[::2]:
        (folder / file.parent.name).mkdir(exist_ok=True)
        shutil.copy(file, folder / file.parent.name)
    return folder


def pixels_of(folder, classifier) -> torch.Tensor:
    return torch.from_numpy(classifier.preprocess.batch(image_files([folder])))


def configured(config: CounterattackConfig, **options) -> DefendedClassifier:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UncalibratedWarning)
        return DefendedClassifier.bundled(config=config, **options)


def test_clean_pictures_alone_will_do(run, pictures, tmp_path, monkeypatch, bundled):
    monkeypatch.setenv("COLUMNS", "120")
    out = tmp_path / "mine.json"
    with monkeypatch.context() as patched:
        patched.setattr(console, "SECONDS_A_LINE", 0.0)
        code, printed, err = run(
            "calibrate", "--clean", pictures, "--rate", 0.25, "-o", out, "--batch-size", 8
        )
    assert code == 0, err
    assert re.search(r"^measuring drift: 100 %, 0:00:00 left$", err, re.MULTILINE)
    assert "was not calibrated" not in err
    assert "at most 25 % of clean pictures are countered" in " ".join(printed.split())
    assert f"settings: {out}; report: {report_path(out)}" in printed
    config = CounterattackConfig.from_json(out.read_text())
    classifier = configured(config)
    assert classifier.calibrated
    original = load_bundled(DRAWN)
    tuned = copy.deepcopy(original.model)
    load_image_tower(tuned.visual, DRAWN / "tecoa.pt")
    with pytest.warns(UncalibratedWarning):
        other = DefendedClassifier(tuned, original.tokenizer, original.classnames, config=config)
    assert not other.calibrated
    prediction = classifier.predict(pixels_of(pictures, bundled), seed=0)
    assert prediction.countered.sum() == 0.25 * N  # as promised, in a batch of another size
    percentiles = json.loads(report_path(out).read_text())["drift_percentiles"]["clean"]
    expected = np.quantile(prediction.drift.numpy(), np.linspace(0, 1, 101))
    assert percentiles == pytest.approx(expected.tolist(), rel=1e-3)
    code, printed, err = run("classify", pictures, "--config", out, "--json", "--seed", 0)
    rows = [json.loads(line) for line in printed.splitlines()]
    assert (code, err.strip()) == (0, "")
    assert sum(row["countered"] for row in rows) == 0.25 * N
    assert all(row["calibrated"] for row in rows)


def test_an_attack_and_labels_give_the_whole_report(run, few, tmp_path, bundled):
    out, plot = tmp_path / "mine.json", tmp_path / "drift.svg"
    code, printed, err = run(
        "calibrate", "--clean", few, "--attack", "pgd", "--eps", "2/255", "--labels", "--seed", 3,
        "--attacked-share", 0.1, "--json", "--plot", plot, "-o", out, "--rate", 0.2, "--batch-size", 4,
        "--preset", "published",
    )  # fmt: skip
    assert code == 0, err
    report = json.loads(printed)
    assert report == json.loads(report_path(out).read_text())
    figures, said = report["figures"], report["run"]
    assert said["attack"] == "PGD-10, step 1/255, undefended model, away from the true label"
    assert (said["attack_eps"], said["seed"], said["skipped"], said["model"]) == (2 / 255, 3, 0, "drawn")
    x = pixels_of(few, bundled)
    labels = torch.tensor([*folder_labels(few, image_files([few]), CLASSNAMES).values()])
    attacked = attack_in_chunks(undefended(bundled), x / 255, labels, eps=2 / 255, chunk=4, seed=3)
    drift, drift_attacked = (bundled.predict(p, seed=3).drift.numpy() for p in (x, attacked))
    assert figures["auroc"] == pytest.approx(separation(drift, drift_attacked, seed=3).auroc, abs=0.01)
    for name, tau in (("clean", drift), ("attacked", drift_attacked)):
        expected = np.quantile(tau, np.linspace(0, 1, 101))
        assert report["drift_percentiles"][name] == pytest.approx(expected.tolist(), rel=1e-3)
    assert "the gate" in report["gate"]
    config = CounterattackConfig.from_json(out.read_text())
    classifier = configured(config)
    for name, p in (("clean", x), ("attacked", attacked)):
        prediction = classifier.predict(p, seed=3)
        assert figures[f"{name}_countered"] == pytest.approx(prediction.countered.double().mean().item())
        right = (prediction.labels == labels).double().mean().item()
        assert figures[f"{name}_accuracy"] == pytest.approx(right)
        right = (bundled.undefended(p).argmax(1) == labels).double().mean().item()
        assert figures[f"{name}_accuracy_undefended"] == pytest.approx(right)
    assert figures["attacked_accuracy_undefended"] < figures["clean_accuracy_undefended"]
    svg = plot.read_text()
    assert svg.count("<svg") == 4
    assert "clean pictures countered" in svg
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")


def test_a_folder_of_attacked_pictures_is_taken_as_it_is(run, pictures, tmp_path, bundled):
    attacked = tmp_path / "attacked"
    attacked.mkdir()
    flat = np.zeros((96, 96, 3), np.uint8)
    for i in range(12):  # flat pictures drift otherwise
        Image.fromarray(flat + np.uint8(20 * i)).save(attacked / f"{i:02d}.png")
    out = tmp_path / "mine.json"
    code, printed, err = run(
        "calibrate", "--clean", pictures, "--attacked", attacked, "--json", "-o", out, "--preset", "published"
    )
    assert code == 0, err
    report = json.loads(printed)
    assert report["figures"]["attacked_pictures"] == 12
    assert report["run"]["attacked"] == str(attacked)
    drifts = [
        bundled.predict(pixels_of(folder, bundled), seed=0).drift.numpy() for folder in (pictures, attacked)
    ]
    assert report["figures"]["auroc"] == pytest.approx(separation(*drifts).auroc, abs=0.01)
    found = separation(*drifts)
    code, _, err = run("calibrate", "--clean", pictures, "--attacked", attacked, "--balanced", "-o", out)
    if found.kind == "separates":
        assert code == 0
    else:
        assert code == 2
        assert "no threshold has a balanced accuracy better than chance" in " ".join(err.split())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_fine_tuned_tower_is_calibrated_for_the_one_that_measures(run, pictures, tmp_path, bundled, norm):
    base, out = tmp_path / "base.json", tmp_path / "mine.json"
    eps = {"linf": 4 / 255, "l2": 2.0}[norm]
    base.write_text(CounterattackConfig(norm=norm, eps=eps, step_size=eps / 4).to_json())
    code, _, err = run(
        "calibrate", "--clean", pictures, "--checkpoint", DRAWN / "tecoa.pt", "--config", base,
        "--rate", 0.5, "-o", out,
    )  # fmt: skip
    assert code == 0, err
    config = CounterattackConfig.from_json(out.read_text())
    assert (config.norm, config.eps) == (norm, eps)
    assert config.is_calibrated(fingerprint(bundled.image_tower.model.visual))
    twin = configured(config, finetuned=True)
    assert twin.calibrated
    assert twin.predict(pixels_of(pictures, bundled), seed=0).countered.sum() == N / 2
    figures = json.loads(report_path(out).read_text())["figures"]
    assert figures["forward_passes"] == 3 + 0.5 * 3


def test_a_picture_that_cannot_be_read_is_listed_and_the_rest_go_on(run, tmp_path):
    for i, pixels in enumerate(draw(6, seed=(200, 32)).pixels):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "2-broken.png").write_bytes(b"no image")
    out = tmp_path / "mine.json"
    code, printed, err = run(
        "calibrate", "--clean", tmp_path, "--rate", 0.5, "--json", "-o", out, "--batch-size", 2
    )
    assert code == 0
    assert "2-broken.png: not an image" in err
    report = json.loads(printed)
    assert report["run"]["skipped"] == 1
    assert report["figures"]["clean_pictures"] == 6
    assert report["figures"]["clean_countered"] == 0.5


def test_figures_of_a_calibration_go_along_with_an_export(run, pictures, tmp_path, monkeypatch):
    out, written = tmp_path / "mine.json", []

    def remember(graph, examples, metadata, path, **_):  # noqa: ARG001
        written.append(Metadata.from_json(metadata))
        raise InputError("no file is needed here")

    monkeypatch.setattr(to_onnx, "write", remember)
    assert run("calibrate", "--clean", pictures, "-o", out)[0] == 0
    for config in (out, DRAWN / "published.json"):
        assert "no file is needed here" in run("export", "-o", tmp_path / "a.onnx", "--config", config)[2]
    figures = json.loads(report_path(out).read_text())["figures"]
    assert [metadata.calibration for metadata in written] == [figures, None]
    assert written[0].calibrated
    # A config of other weights: the report beside it is of another model.
    foreign = CounterattackConfig.from_json(out.read_text()).calibrated("others")
    out.write_text(foreign.to_json())
    report = json.loads(report_path(out).read_text())
    report_path(out).write_text(json.dumps(report | {"config": json.loads(foreign.to_json())}))
    run("export", "-o", tmp_path / "a.onnx", "--config", out)
    assert (written[2].calibrated, written[2].calibration) == (False, None)


def test_figures_need_a_calibrated_config(bundled, tmp_path):
    with pytest.warns(UncalibratedWarning):
        other = bundled.with_config(CounterattackConfig())
    with pytest.raises(InputError, match="expected a config calibrated for this model"):
        export(other, tmp_path / "a.onnx", calibration={"clean_countered": 0.05})


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--clean", "gone"], "expected a folder of pictures, got gone"),
        (
            ["--clean", "{pictures}", "--rate", "0.01"],
            "at least 100 clean pictures for a rate of 0.01, got 20",
        ),
        (["--clean", "{pictures}", "--rate", "1.5"], "expected a rate between 0 and 1"),
        (["--clean", "{pictures}", "--balanced"], "need attacked pictures"),
        (["--clean", "{pictures}", "--balanced", "--rate", "0.1"], "got both"),
        (["--clean", "{pictures}", "--attacked-share", "0.1"], "need attacked pictures"),
        (["--clean", "{pictures}", "--attacked", "{pictures}", "--attack", "pgd"], "got both"),
        (["--clean", "{pictures}", "--attack", "pgd", "--eps", "2"], "expected a budget as 1/255"),
        (["--clean", "{pictures}", "--eps", "1/255"], "--eps 1/255 needs --attack"),
        (["--clean", "{pictures}", "--labels", "--classnames", "red circle"], "named as the classes below"),
        (["--clean", "{pictures}", "--plot", "{out}/plot.png"], "expected a file named .svg"),
        (["--clean", "{pictures}", "-o", "{out}/gone/mine.json"], "no such folder"),
        (["--clean", "{pictures}", "--checkpoint", "gone.pt"], "no such checkpoint"),
        (["--clean", "{out}"], "expected image files in the folder"),
    ],
)
def test_mistakes_end_with_a_message_and_nothing_written(
    run, pictures, tmp_path, monkeypatch, arguments, named
):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("calibrate", *(a.format(pictures=pictures, out=tmp_path) for a in arguments))
    assert code == 2
    assert named in " ".join(err.split())
    assert "Traceback" not in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", [True, False])
def test_the_attack_moves_away_from_labels_that_are_given(few, bundled, given):
    files = list(image_files([few]))[:3]
    pixels = bundled.preprocess.batch(files)
    x = torch.from_numpy(pixels) / 255
    wrong = torch.full((3,), 7)
    labels = dict(zip(files, wrong.tolist(), strict=True)) if given else None
    _, attacked = measure(bundled, [(files, pixels)], labels=labels, attack_eps=4 / 255)
    away_from = wrong if given else bundled.undefended(x).argmax(1)
    expected = attack_in_chunks(undefended(bundled), x, away_from, eps=4 / 255, chunk=3)
    drift = bundled.predict(expected, seed=0).drift.numpy()
    assert attacked.drift == pytest.approx(drift, rel=1e-3)


def test_labels_are_of_the_class_folders(tmp_path):
    files = [tmp_path / "red_circle" / "a.png", tmp_path / "blue star" / "deep" / "b.png"]
    labels = folder_labels(tmp_path, files, ["blue star", "red circle"])
    assert list(labels.values()) == [1, 0]
    with pytest.raises(InputError, match="expected pictures in folders named as the classes"):
        folder_labels(tmp_path, [tmp_path / "red circle"], ["red circle"])


def test_pictures_may_pass_early_by_the_tokens_of_a_block(run, pictures, tmp_path, bundled):
    out = tmp_path / "mine.json"
    options = ["--clean", pictures, "--attack", "pgd", "--eps", "4/255", "--rate", 0.25]
    code, printed, err = run("calibrate", *options, "--early", 2, "-o", out)
    assert code == 0, err
    config = CounterattackConfig.from_json(out.read_text())
    assert (config.gate, config.transform, config.gate_depth) == ("agreement", "blur", 2)
    assert config.is_calibrated(bundled.drift_weights)
    pixels = pixels_of(pictures, bundled)
    drift = configured(config).predict(pixels, seed=0).drift
    report = json.loads(report_path(out).read_text())
    assert report["figures"]["clean_early"] == (drift > 1 + config.early_threshold / 2).float().mean()
    assert report["figures"]["clean_countered"] == (drift < config.tau_threshold).float().mean()
    assert "clean early" in printed
    for given, named in (
        (["--early", 4], "expected a gate_depth below 4"),
        (["--early", 2, "--preset", "published"], "expected gate 'agreement' with a gate_depth, got 'drift'"),
        (["--early", 2, "--gates", "all"], "expected --early or --gates, got both"),
    ):
        code, _, err = run("calibrate", *options, *given, "-o", out)
        assert code == 2
        assert named in err
    code, _, err = run("calibrate", "--clean", pictures, "--rate", 0.25, "--early", 2, "-o", out)
    assert code == 2
    assert "an early_threshold needs attacked pictures" in err


def test_all_gates_are_compared_and_the_best_is_set(run, pictures, tmp_path, monkeypatch, bundled):
    monkeypatch.setenv("COLUMNS", "160")
    out, plot = tmp_path / "mine.json", tmp_path / "roc.svg"
    options = ["--clean", pictures, "--attack", "pgd", "--eps", "4/255", "--rate", 0.25, "--gates", "all"]
    code, printed, err = run("calibrate", *options, "-o", out, "--plot", plot)
    assert code == 0, err
    config = CounterattackConfig.from_json(out.read_text())
    assert config.gate == "agreement"
    assert config.views == CounterattackConfig.recommended().views
    assert config.is_calibrated(bundled.drift_weights)
    assert f"tells them apart best: agreement, {config.transform}" in printed
    for name in ("drift at noise 16/255", "agreement, mirror"):
        assert re.search(rf"{name} .* \d\.\d{{3}} to \d\.\d{{3}} ", printed)
    assert "each gate" in plot.read_text()
    report = json.loads(report_path(out).read_text())
    assert report["config"]["transform"] == config.transform
    code, printed, err = run("calibrate", *options, "-o", out, "--json")
    assert json.loads(printed)[f"agreement, {config.transform}"]["figures"] == report["figures"]
    code, printed, err = run("calibrate", "--clean", pictures, "--gates", "all", "-o", out)
    assert code == 2
    assert "expected attacked pictures or an attack" in " ".join(err.split())
