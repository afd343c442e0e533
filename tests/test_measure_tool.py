from __future__ import annotations

import json

import measure
import pytest
from PIL import Image

from clipfast import DefendedClassifier
from clipfast.evaluation.shapes import SHAPES, draw


def test_measures_a_folder_of_labelled_images(tmp_path, monkeypatch, capsys):
    drawn = draw(24, seed=(200, 20), kinds={"plain": 1.0}, size=120)
    for i, (pixels, shape) in enumerate(zip(drawn.pixels, drawn.shapes, strict=True)):
        (tmp_path / SHAPES[shape]).mkdir(exist_ok=True)
        Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / SHAPES[shape] / f"{i}.png")
    # The bundled model stands in for the weights that a user downloads.
    monkeypatch.setattr(
        DefendedClassifier,
        "from_open_clip",
        lambda _model, _weights, names, device, **_: DefendedClassifier.bundled(names, device=device),
    )
    measure.main(str(tmp_path), "ViT-B-32-quickgelu", "openai", 20, 2.0, 0.2, 10, "cpu", 0)
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
