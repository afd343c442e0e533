from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hand_made import make_metadata, write_onnx, write_torchscript
from PIL import Image

from clipfast import CounterattackConfig, DefendedClassifier, __version__
from clipfast.cli import console
from clipfast.models.shapes import CLASSNAMES, draw
from clipfast.runtime import OnnxClassifier


@pytest.fixture
def folder(tmp_path):
    drawn = draw(5, seed=(200, 9), kinds={"plain": 1.0})
    for i, pixels in enumerate(drawn.pixels):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / f"{i}-{CLASSNAMES[drawn.labels[i]]}.png")
    return tmp_path


@pytest.mark.parametrize("preset", [None, "published", "recommended"])
def test_json_lines_say_what_the_classifier_says(run, folder, bundled, preset):
    options = [] if preset is None else ["--preset", preset]
    code, out, err = run("classify", folder, "--json", "--seed", 3, "--topk", 2, "--batch-size", 5, *options)
    if preset != "published":
        bundled = DefendedClassifier.bundled()
    assert code == 0
    assert err == ""
    rows = [json.loads(line) for line in out.splitlines()]
    files = sorted(folder.glob("*.png"))
    assert [row["image"] for row in rows] == [str(file) for file in files]
    pixels = torch.from_numpy(bundled.preprocess.batch(files))
    prediction = bundled.predict(pixels, seed=3, with_undefended=True)
    for i, row in enumerate(rows):
        assert row["class"] == row["topk"][0]["class"] == CLASSNAMES[prediction.labels[i]]
        assert row["probability"] == pytest.approx(prediction.probabilities[i].max().item(), rel=1e-4)
        assert row["drift"] == pytest.approx(prediction.drift[i].item(), rel=1e-3)
        assert row["countered"] == prediction.countered[i].item()
        assert row["changed"] == prediction.changed[i].item()
        assert row["calibrated"] is True
        assert len(row["topk"]) == 2
    names = [file.stem.split("-", 1)[1] for file in files]
    assert sum(row["undefended_class"] == name for row, name in zip(rows, names, strict=True)) >= 4


@pytest.mark.parametrize("artifact", [False, True], ids=["torch", "file"])
def test_a_page_shows_pictures_with_their_answers(run, folder, tmp_path_factory, artifact):
    place = tmp_path_factory.mktemp("sheet")
    page, name = place / "sheet.html", "<b>&.png"
    (folder / "broken.png").write_bytes(b"no picture")
    shutil.copy(sorted(folder.glob("0-*.png"))[0], folder / name)
    options = ["--preset", "published"]
    if artifact:
        options = ["--artifact", write_onnx(place / "a.onnx", make_metadata())]
    code, out, _ = run("classify", folder, "--json", "--seed", 3, *options, "--html", page)
    assert code == 1  # of the broken one, and the page is written all the same
    rows, text = [json.loads(line) for line in out.splitlines()], page.read_text()
    assert text.count("<figure>") == len(rows) == 6
    assert text.count("<img") == 2 * 6  # something was added to each: noise to those that passed
    assert name not in text
    assert "&lt;b&gt;&amp;.png" in text
    for row in rows:
        assert f"<strong>{row['class']}</strong> {row['probability']:.3f}" in text
        assert f"{'countered' if row['countered'] else 'passed'}: drift {row['drift']:.4f}" in text
    changed = sum(row["changed"] for row in rows)
    assert text.count('class="changed"') == changed
    assert f"6 images, {sum(row['countered'] for row in rows)} countered, {changed} answers changed" in text
    assert "http" not in text
    code, _, err = run("classify", folder, "--html", place / "none" / "sheet.html")
    assert code == 2
    assert "none" in err


@pytest.mark.parametrize("kind", [".onnx", ".ts.pt"])
def test_an_artifact_is_classified_with(run, folder, tmp_path_factory, monkeypatch, kind):
    place, metadata = tmp_path_factory.mktemp("exported"), make_metadata()
    onnx = write_onnx(place / "a.onnx", metadata)
    script = write_torchscript(place / "a.ts.pt", metadata.to_json())
    chosen = {".onnx": [onnx], ".ts.pt": [script, "--trust", "--device", "cpu"]}[kind]
    given = ["classify", folder, "--seed", 3, "--batch-size", 2, "--artifact", *chosen]
    code, out, err = run(*given, "--json", "--topk", 2)
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in out.splitlines()]
    classifier, files = OnnxClassifier(onnx), sorted(folder.glob("*.png"))
    prediction = classifier.predict(classifier.preprocess.batch(files), seed=3)
    assert [row["image"] for row in rows] == [str(file) for file in files]
    assert set(rows[0]) == set(json.loads(run("classify", files[0], "--json")[1]))  # as the library's
    for i, row in enumerate(rows):
        assert [(best["class"], best["probability"]) for best in row["topk"]] == [
            (name, pytest.approx(value, rel=1e-4)) for name, value in prediction.topk(2)[i]
        ]
        assert row["class"] == row["topk"][0]["class"]
        assert row["drift"] == pytest.approx(prediction.drift[i].item(), rel=1e-4)
        assert row["countered"] is prediction.countered[i].item()
        assert row["changed"] is prediction.changed[i].item()
        assert row["undefended_class"] == metadata.classnames[prediction.undefended_logits[i].argmax()]
        assert row["calibrated"] is True
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run(*given)
    assert code == 0
    assert f"5 images, {prediction.countered.sum()} countered" in out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--classnames", "a,b"], "a.onnx does not go with --classnames"),
        (["--templates", "a.txt"], "a.onnx does not go with --templates"),
        (["--model", "ViT-B-32"], "a.onnx does not go with --model"),
        (["--pretrained", "openai"], "a.onnx does not go with --pretrained"),
        (["--config", "a.json"], "a.onnx does not go with --config"),
        (["--precision", "bf16"], "a.onnx does not go with --precision"),
        (["--device", "cpu"], "a.onnx does not go with --device"),
        (["--provider", "coreml"], "CoreMLExecutionProvider was asked for"),
        (["--provider", "cpu", "--runtime", "openvino"], "--provider is of onnxruntime, got it with"),
        (["--runtime", "torch"], "files of .onnx run in onnxruntime, openvino, reference"),
        (["--seed", "1"], "seed needs a file exported with --profile lab"),
        (["--artifact", "gone.onnx"], "cannot read gone.onnx"),
        (["--artifact", "a.pt2"], "a.pt2: a file of this format runs its own code"),
        (["--artifact", "a.bin"], "a.bin: expected a file named .onnx, .ts.pt or .pt2"),
    ],
)
def test_mistakes_with_an_artifact_end_with_a_message_and_code_2(run, folder, arguments, named):
    path = write_onnx(folder / "a.onnx", make_metadata(profile="serving"))
    code, out, err = run("classify", folder, "--artifact", path, *arguments)
    assert (code, out) == (2, "")
    assert "error:" in err
    assert named in " ".join(err.split())
    assert "Traceback" not in err


def test_an_uncalibrated_artifact_is_warned_of(run, folder):
    path = write_onnx(folder / "a.onnx", make_metadata(profile="serving", calibrated=False))
    code, _, err = run("classify", folder, "--artifact", path)
    assert code == 0
    assert "warning: tau_threshold = 0.5 was not calibrated" in " ".join(err.split())


@pytest.mark.parametrize("option", [["--trust"], ["--runtime", "openvino"], ["--provider", "cpu"]])
def test_what_is_of_an_artifact_alone_is_a_mistake(run, folder, option):
    code, _, err = run("classify", folder, *option)
    assert code == 2
    assert f"{option[0]} needs --artifact" in err


def test_an_artifact_that_does_not_tell_plain_clips_answer(run, folder):
    path = write_onnx(folder / "a.onnx", make_metadata(outputs=("logits", "drift", "countered")))
    code, out, _ = run("classify", folder, "--artifact", path, "--seed", 3, "--json")
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert {(row["undefended_class"], row["changed"]) for row in rows} == {(None, False)}


def test_an_artifact_answers_alike_in_each_runtime(run, folder):
    path = write_onnx(folder / "a.onnx", make_metadata())
    answers = [
        run("classify", folder, "--artifact", path, "--seed", 3, *where)
        for where in ([], ["--runtime", "openvino"], ["--runtime", "reference"], ["--provider", "cpu"])
    ]
    assert len(set(answers)) == 1
    assert answers[0][0] == 0


def test_table_names_every_image(run, folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "72")
    code, out, _ = run("classify", folder, "--seed", 3)
    assert code == 0
    # Names are folded where they are too long for their column, at a space too.
    cells = "".join(line.split("│")[1] for line in out.splitlines() if line.startswith("│"))
    for file in folder.glob("*.png"):
        assert file.name.replace(" ", "") in cells.replace(" ", "")
    assert "5 images" in out
    assert "answers changed" in out.splitlines()[-1]


@pytest.mark.parametrize(("files", "lines"), [(15, []), (16, [31, 62, 94, 100])])
def test_a_log_shows_progress_of_many_files(run, folder, monkeypatch, files, lines):
    monkeypatch.setattr(console, "SECONDS_A_LINE", 0.0)
    picture = next(folder.iterdir())
    for i in range(files - 5):
        shutil.copy(picture, folder / f"copy-{i}.png")
    code, _, err = run("classify", folder, "--batch-size", 5)
    assert code == 0
    told = re.findall(r"^classifying: (\d+) %, \d+:\d\d:\d\d left$", err, re.MULTILINE)
    assert [int(share) for share in told] == lines


def test_a_bad_file_is_reported_and_the_rest_go_on(run, folder):
    (folder / "2-broken.png").write_bytes(b"no image")
    (folder / "0-empty.png").write_bytes(b"")
    code, out, err = run("classify", folder, "--json", "--batch-size", 2)
    assert code == 1
    assert len(out.splitlines()) == 5
    assert "2-broken.png: not an image" in err
    assert "0-empty.png: expected an image, got zero bytes" in err
    assert "2 of 7 inputs could not be read" in err


def test_a_missing_path_is_reported_and_the_rest_go_on(run, folder):
    code, out, err = run("classify", "gone.png", folder, "--json")
    assert code == 1
    assert len(out.splitlines()) == 5
    assert "no such file or folder: gone.png" in err
    code, out, err = run("classify", "gone.png")
    assert (code, out) == (1, "")
    assert "no such file or folder: gone.png" in err


def test_what_is_left_out_of_a_folder_is_told_and_counted(run, folder):
    (folder / "a.heic").write_bytes(b"x")
    (folder / "gone.png").symlink_to(folder / "nothing.png")
    (folder / "round").symlink_to(folder)
    code, out, err = run("classify", folder, "a" * 300, "--json")
    assert code == 1
    assert len(out.splitlines()) == 5
    for said in (
        "a.heic: clipfast does not read files of .heic",
        "gone.png: a link that leads nowhere",
        "round: a link to a folder, which is not followed",
        "File name too long",
        "4 of 9 inputs could not be read",
    ):
        assert said in " ".join(err.split())


def test_answers_do_not_depend_on_the_batch_size(run, folder):
    drifts = [
        [
            json.loads(line)["drift"]
            for line in run("classify", folder, "--json", "--seed", 3, "--batch-size", n)[1].splitlines()
        ]
        for n in (1, 2, 5)
    ]
    assert drifts[1] == pytest.approx(drifts[0], rel=1e-3)
    assert drifts[2] == pytest.approx(drifts[0], rel=1e-3)


def test_class_names_templates_and_config_from_files(run, folder, tmp_path):
    names, templates, config = (tmp_path / name for name in ("names.txt", "templates.txt", "config.json"))
    names.write_text("red circle\nblue star\n\n")
    templates.write_text("a photo of a {}.\nthis {}.\n")
    config.write_text(CounterattackConfig(tau_threshold=0.0).to_json())
    code, out, err = run(
        "classify", folder, "--classnames", names, "--templates", templates, "--config", config, "--json"
    )  # fmt: skip
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert {row["class"] for row in rows} <= {"red circle", "blue star"}
    assert not any(row["countered"] or row["calibrated"] for row in rows)
    assert "was not calibrated" in err
    assert (
        run("classify", folder, "--classnames", ",".join(CLASSNAMES), "--json")[0] == 0
    )  # longer than a path
    listed = run("classify", folder, "--classnames", "red circle, blue star", "--json")[1]
    assert {json.loads(line)["class"] for line in listed.splitlines()} <= {"red circle", "blue star"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["{}", "--classnames", "gone.txt"], "there is no file gone.txt"),
        (["{}", "--model", "ViT-B-32", "--classnames", "a,b"], "needs --pretrained"),
        (["{}", "--classnames", "red circle,,"], "not empty"),
        (["{}", "--classnames", "a cat"], "not among them: cat"),
        (["{}", "--model", "ViT-B-32", "--pretrained", "openai"], "needs --classnames"),
        (["{}", "--pretrained", "openai"], "needs --model"),
        (["{}", "--model", "ViT-B-32", "--pretrained", "openai", "--classnames", "a"], "QuickGELU"),
        (["{}", "--templates", "gone.txt"], "cannot read gone.txt"),
        (["{}", "--config", "gone.json"], "cannot read gone.json"),
        (["{}", "--config", "a.json", "--preset", "published"], "--config or --preset, got both: a.json and"),
        (["{}", "--artifact", "a.onnx", "--preset", "published"], "does not go with --preset"),
        (["{}", "--seed", "-1"], "seed must be an integer"),
        (["{}", "--device", "cuda:99"], "no device 'cuda:99' here; there is: cpu"),
        (["{}", "--device", "toaster"], "no device 'toaster' here"),
    ],
)
def test_mistakes_end_with_a_message_and_code_2(run, folder, arguments, named):
    code, out, err = run("classify", *(argument.format(folder) for argument in arguments))
    assert code == 2
    assert "error:" in err
    assert named in " ".join(err.split())
    assert "Traceback" not in err
    assert out == ""


def test_version_and_help(run):
    assert run("--version")[1].strip() == f"clipfast {__version__}"
    code, out, _ = run("classify", "--help")
    assert code == 0
    assert "--classnames" in out


def test_classnames_come_from_pipes_and_standard_input_too(run, folder, monkeypatch, tmp_path):
    """What looks like a path is never a class."""
    names = "\ufeffred circle\n\nblue star\n"
    (tmp_path / "names.txt").write_text(names, encoding="utf-8")
    expected = run("classify", folder, "--json", "--classnames", "red circle, blue star", "--seed", 1)
    assert expected[0] == 0
    assert run("classify", folder, "--json", "--classnames", tmp_path / "names.txt", "--seed", 1) == expected
    monkeypatch.setattr(sys, "stdin", io.StringIO("red circle\nblue star\n"))
    assert run("classify", folder, "--json", "--classnames", "-", "--seed", 1) == expected
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        pool.submit((tmp_path / "pipe").write_text, names, encoding="utf-8")
        assert run("classify", folder, "--json", "--classnames", tmp_path / "pipe", "--seed", 1) == expected
    for path in ("/gone/names", "./names", "names.txt"):
        code, out, err = run("classify", folder, "--classnames", path)
        assert (code, out) == (2, "")
        assert f"there is no file {path}" in err


def test_names_are_whole_in_the_table(run, folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    shutil.copy(next(folder.glob("*.png")), folder / "a:smile:b.png")
    undecodable = os.fsencode(folder) + b"/\xff.png"
    shutil.copy(folder / "a:smile:b.png", undecodable)
    code, out, _ = run("classify", folder, "--classnames", "red circle, blue star")
    assert code == 0
    cells = "".join(line.split("│")[1].replace(" ", "") for line in out.splitlines() if line.startswith("│"))
    assert "a:smile:b.png" in cells


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_that_a_terminal_has_no_letters_for_lose_no_row(folder, encoding, exported):
    shutil.copy(next(folder.glob("*.png")), os.fsencode(folder) + b"/\xff.png")
    shutil.copy(next(folder.glob("*.png")), folder / "\u732b.png")
    command = [sys.executable, "-m", "clipfast", "classify", folder, "--artifact", exported("static").path]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert done.returncode == 0, done.stderr
    assert b"7 images" in done.stdout


def test_a_full_disk_is_an_error_and_no_traceback(folder, exported):
    command = [sys.executable, "-m", "clipfast", "classify", folder, "--artifact", exported("static").path]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("error: No space left on device")
    assert "Traceback" not in done.stderr
