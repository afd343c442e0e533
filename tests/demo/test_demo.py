"""The demo from the command line: files, table, page. What attackers leave is made up; see test_adaptive."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image

from clipfast import DefendedClassifier
from clipfast.config import GATES
from clipfast.demo import experiment
from clipfast.demo.stages import stages
from clipfast.demo.subject import DEFENCES
from clipfast.models.shapes import CLASSNAMES

N = 16
SYSTEMS = ["undefended", "3x3 blur", "fine-tuned twin", "TTC as published", "recommended"]


def test_the_demo_shows_both_presets(run, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    attacked_systems = []

    def still_right(system, pixels, labels, right, **options):
        """All but the first pictures, one more of each system."""
        attacked_systems.append((system, pixels, labels, right, options))
        options["progress"](1)
        return right & (np.arange(N) > len(attacked_systems))

    monkeypatch.setattr(experiment, "still_right", still_right)
    code, out, _ = run("demo", "--out", tmp_path / "demo", "--number", N, "--seed", 3)
    assert code == 0
    clean, attacked = (sorted((tmp_path / "demo" / name).glob("*.png")) for name in ("clean", "attacked"))
    assert [file.name for file in clean] == [file.name for file in attacked]
    assert len(clean) == N
    before, after = (
        np.stack([np.asarray(Image.open(f)).astype(int) for f in files]) for files in (clean, attacked)
    )
    assert np.abs(after - before).max() == 2  # the budget holds in the files themselves
    labels = torch.tensor([CLASSNAMES.index(f.stem.split("-", 2)[2].replace("-", " ")) for f in clean])

    classifiers = {name: DefendedClassifier.bundled(preset=preset) for preset, name in DEFENCES.items()}
    pixels = [classifiers["recommended"].preprocess.batch(files) for files in (clean, attacked)]
    predictions = {
        name: [
            classifier.predict(torch.from_numpy(p), seed=3, with_delta=True, with_undefended=True)
            for p in pixels
        ]
        for name, classifier in classifiers.items()
    }
    right = {name: [p.labels == labels for p in made] for name, made in predictions.items()}
    right["undefended"] = [p.undefended_logits.argmax(1) == labels for p in predictions["recommended"]]
    assert [system.name for system, *_ in attacked_systems] == SYSTEMS
    for place, (system, given, truth, alive, options) in enumerate(attacked_systems):
        assert torch.equal(given, torch.from_numpy(pixels[0]) / 255)
        assert torch.equal(truth, labels)
        assert options["eps"] == 2 / 255
        row = next(line for line in out.splitlines() if system.name in line and "│" in line)
        figures = [float(cell) for cell in re.findall(r"(\d+) %", row)]
        assert figures[2] == pytest.approx(100 * (alive & (np.arange(N) > place + 1)).mean(), abs=0.51)
        if system.name in right:
            flags = [flag.numpy() for flag in right[system.name]]
            assert figures[:2] == pytest.approx([100 * flag.mean() for flag in flags], abs=0.51)
            np.testing.assert_array_equal(alive, flags[0] & flags[1])

    said = " ".join(out.split())
    shares = [100 * p.countered.double().mean().item() for p in predictions["TTC as published"]]
    assert f"Its gate countered {shares[1]:.0f}% of the attacked and {shares[0]:.0f}% of the clean" in said
    assert "It has no gate, and answers every picture in one way." in said
    for words in ("adaptive figures are upper bounds", "no evidence about real CLIP"):
        assert words in said

    page = (tmp_path / "demo" / "index.html").read_text()
    for name, classifier in classifiers.items():
        for words in stages(classifier.config):
            assert words in page.replace("&#x27;", "'")
        measures = GATES[classifier.config.gate].measures
        assert (f">{measures}</text>" in page) == (name != "recommended")
    turned = (right["undefended"][0] & ~right["undefended"][1]).nonzero().flatten().tolist()[:10]
    assert turned
    rows = re.findall(r"<tr>(?:(?!</tr>).)*<img.*?</tr>", page)
    assert len(rows) == len(turned)
    for i, row in zip(turned, rows, strict=True):
        answers = re.findall(r'<dt>(.*?)</dt><dd class="(right|wrong)">(.*?) &#', row)
        assert [name for name, *_ in answers] == ["undefended", *DEFENCES.values()] * 2
        for (name, kind, answer), side in zip(answers, [0] * 3 + [1] * 3, strict=True):
            prediction = predictions["recommended" if name == "undefended" else name][side]
            logits = prediction.undefended_logits if name == "undefended" else prediction.logits
            assert answer == CLASSNAMES[logits[i].argmax()]
            assert (kind == "right") == (answer == CLASSNAMES[labels[i]])
        gates = [
            ("no gate" if name == "recommended" else "countered" if p[1].countered[i] else "passed the gate")
            + ("" if p[1].delta[i].any() else ", nothing added")
            for name, p in predictions.items()
        ]
        assert re.findall(r"((?:countered|passed the gate|no gate)[^<]*)</td>", row) == gates
    assert "<svg" in page
    for outside in ("http://", "https://", 'src="/', "<script"):
        assert outside not in page


def test_demo_into_a_file_is_an_error(run, tmp_path):
    (tmp_path / "taken").write_text("")
    code, _, err = run("demo", "--out", tmp_path / "taken", "--number", 8)
    assert code == 2
    assert "cannot write pictures to" in " ".join(err.split())
