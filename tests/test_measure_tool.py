from __future__ import annotations

import json

import measure
import pytest
from PIL import Image

from clipfast import DefendedClassifier, InputError
from clipfast.evaluation.shapes import SHAPES, draw


def test_measures_a_folder_of_labelled_images(tmp_path, monkeypatch, capsys):
    drawn = draw(24, seed=(200, 20), kinds={"plain": 1.0}, size=120)
    for i, (pixels, shape) in enumerate(zip(drawn.pixels, drawn.shapes, strict=True)):
        (tmp_path / SHAPES[shape]).mkdir(exist_ok=True)
        Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / SHAPES[shape] / f"{i}.png")
    asked = []

    def bundled(model, weights, names, *, device, config):  # stands in for weights that a user downloads
        asked.append((model, weights, config.tau_threshold))
        return DefendedClassifier.bundled(names, device=device)

    monkeypatch.setattr(DefendedClassifier, "from_open_clip", bundled)
    measure.main(str(tmp_path), "ViT-B-32-quickgelu", "openai", 20, 2.0, 0.15, 10, "cpu", 0)
    assert asked == [("ViT-B-32-quickgelu", "openai", 0.15)]
    result = json.loads(capsys.readouterr().out)
    assert result["eps"] == "2/255"
    assert {"undefended", "random noise", "3x3 blur", "TTC"} <= set(result)
    scores = result["undefended"]
    assert scores["clean"]["n"] == 20
    assert scores["clean"]["mean"] > 0.75
    assert scores["pgd10"]["mean"] < scores["clean"]["mean"]
    assert scores["pgd10"] == pytest.approx(scores["adaptive"])
    for name in ("undefended", "3x3 blur", "TTC"):
        assert result[name]["worst"]["mean"] <= min(
            result[name][key]["mean"] for key in ("pgd10", "adaptive")
        )


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="expected a folder with one folder of images for each class"):
        measure.main(str(tmp_path / "gone"), "ViT-B-32-quickgelu", "openai", 20, 2.0, 0.2, 10, "cpu", 0)
