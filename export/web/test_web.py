"""The page in a real Chromium: its answers, what can be done on it, its looks, its words for wrong files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from clipfast import Prediction
from clipfast.calibration.separation import separation
from clipfast.config import GATES, CounterattackConfig
from clipfast.demo.stages import stages
from clipfast.models.bundled import bundled_defaults, bundled_folder
from clipfast.models.shapes import draw
from clipfast.runtime import OnnxClassifier

HERE = Path(__file__).parent
PRESETS = ("recommended", "published")  # in the page's order
WITH_NOISE = "?noise=noise.bin"
BY_PRESET = pytest.mark.parametrize("preset", range(len(PRESETS)), ids=PRESETS)


def test_types(npm):
    npm("run", "check")


def test_build_has_all_that_the_page_needs(built):
    page = (built / "index.html").read_text()
    assert "Content-Security-Policy" in page
    assert "https://" not in page
    assert list(built.glob("assets/*.wasm"))


def test_models_are_described(models):
    description = json.loads((models / "classifier.json").read_text())
    assert [defence["preset"] for defence in description["defences"]] == list(PRESETS)
    for defence in description["defences"]:
        preset, sample = defence["preset"], defence["sample"]
        classifier = OnnxClassifier(models / f"{preset}.onnx")
        config = CounterattackConfig.from_settings(defence["config"])
        assert config == classifier.config == bundled_defaults(bundled_folder("drawn"), preset).config
        own = {name: defence[name] for name in ("config", "calibrated", "calibration")}
        assert {**description["metadata"], **own} == json.loads(classifier.metadata.to_json())
        assert defence["stages"] == stages(config)._asdict()
        assert defence["randomised"] == config.is_randomised()
        gate = GATES[config.gate]
        measure = {"name": gate.measures, "cosine": gate.cosine}
        assert defence["measure"] == (None if preset == "recommended" else measure)
        assert len(sample["clean"]) == len(sample["attacked"]) == 64
        assert sample["separation"] == str(separation(sample["clean"], sample["attacked"]))
        assert (
            sum(preset in pair["brought_back"] for pair in description["pictures"]) <= sample["brought_back"]
        )
    assert len(description["pictures"]) == min(6, description["turned"])
    for pair in description["pictures"]:
        clean, attacked = classifier.preprocess.batch([models / pair["clean"], models / pair["attacked"]])
        assert np.abs(clean.astype(int) - attacked).max() == 2
        before, after = classifier.predict(np.stack([clean, attacked]), seed=0).undefended_logits.argmax(
            axis=1
        )
        assert classifier.classnames[before] == pair["label"] != classifier.classnames[after]


def test_weights_that_models_share_are_there_once(models):
    """The defences' transforms are all that is not every model's."""
    held: dict[str, set[tuple[int, int]]] = {}
    for name in (*PRESETS, "undefended", "gradient"):
        model = onnx.load(models / f"{name}.onnx", load_external_data=False)
        assert all(len(tensor.raw_data) < 1024 for tensor in model.graph.initializer)
        places = [
            {entry.key: entry.value for entry in tensor.external_data}
            for tensor in model.graph.initializer
            if tensor.external_data
        ]
        assert {place["location"] for place in places} == {"weights.bin"}
        held[name] = {(int(place["offset"]), int(place["length"])) for place in places}
    assert (
        held["undefended"] == held["gradient"] == held["published"] & held["recommended"] & held["gradient"]
    )
    everything = set.union(*held.values())
    assert sum(length for _, length in everything) == (models / "weights.bin").stat().st_size
    assert (
        sum(file.stat().st_size for file in models.glob("*.onnx"))
        < (models / "weights.bin").stat().st_size / 10
    )


def test_readme_has_the_figures_of_the_drawn_pictures(models):
    description = json.loads((models / "classifier.json").read_text())
    recommended, published = (defence["sample"] for defence in description["defences"])
    said = (
        f"Of 64 drawn pictures this attack turned {description['turned']}. The recommended defence brought "
        f"{recommended['brought_back']} of those back and made {recommended['lost_clean']} clean ones wrong; "
        f"the published one brought {published['brought_back']} back "
        f"and made {published['lost_clean']} wrong."
    )
    assert said in " ".join((HERE / "README.md").read_text().split())


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """A drawn picture in forms that preprocessing has work with, by what they are."""
    folder = tmp_path_factory.mktemp("files")
    drawn = Image.fromarray(draw(1, seed=(401, 3)).pixels[0].transpose(1, 2, 0))
    # Resized, they lose 20.5 and 21.5 pixels on either side: the half goes where the number is even.
    photo, longer = (drawn.resize((width, 300), Image.Resampling.LANCZOS) for width in (429, 435))
    ramp = Image.linear_gradient("L").resize(photo.size)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right
    saved = {
        "wide.png": (photo, {}),
        "tall.png": (longer.transpose(Image.Transpose.ROTATE_90), {}),
        "small.png": (drawn.resize((40, 61)), {}),
        "grey.png": (photo.convert("L"), {}),
        "palette.png": (photo.quantize(32), {}),
        "turned.jpg": (photo, {"exif": exif, "quality": 92}),
        "transparent.png": (Image.merge("RGBA", [*photo.split(), ramp]), {}),
    }
    for name, (image, options) in saved.items():
        image.save(folder / name, **options)
    return {name: folder / name for name in saved}


def check_answer(answer: dict[str, Any], expected: Prediction[np.ndarray]) -> None:
    """A page's answer to one picture, with the noise of the expected one."""
    assert expected.delta is not None
    assert answer["drift"] == pytest.approx(float(expected.drift[0]), rel=1e-4)
    assert answer["countered"] == expected.countered[0]
    np.testing.assert_allclose(answer["undefendedLogits"], expected.undefended_logits[0], atol=1e-4)
    strayed = np.abs(np.array(answer["delta"]) - expected.delta.ravel()) > 1e-5
    assert strayed.mean() <= 1e-3
    # Where rounding turned the sign of a gradient somewhere, another picture was classified.
    np.testing.assert_allclose(answer["logits"], expected.logits[0], atol=5e-2 if strayed.any() else 1e-4)


@pytest.mark.parametrize(
    ("preset", "isolated"),
    [
        pytest.param(0, False, id="recommended"),
        pytest.param(1, False, id="published"),
        pytest.param(1, True, id="published, threads"),
    ],
)
def test_answers_are_those_of_the_runtime(drive, site, files, isolated_address, preset, isolated):
    classifier = OnnxClassifier(site / "models/drawn" / f"{PRESETS[preset]}.onnx")
    supplied = sorted((site / "models/drawn").glob("*.png"))
    # What is done to a file before it is answered is the same of both.
    chosen = [*supplied, *files.values()] if preset == 0 else supplied
    given = {"files": list(map(str, chosen)), "dropped": str(supplied[0])}
    where = {"url": isolated_address} if isolated else {}
    found = drive("answers", query=WITH_NOISE, preset=preset, **where, **given)
    noise = np.fromfile(site / "noise.bin", "<f4").reshape(1, 3, 96, 96)
    countered, differences = [], []
    for file, page in zip(chosen, found["chosen"], strict=True):
        pixels = classifier.preprocess(file).astype(np.float32)[None] / np.float32(255)
        seen = np.array(page["pixels"], np.float32).reshape(pixels.shape)
        if file.name in ("turned.jpg", "transparent.png"):  # another decoder, another compositor
            assert np.abs(seen - pixels).max() <= 1.001 / 255
            pixels = seen
        np.testing.assert_array_equal(seen, pixels, err_msg=file.name)
        expected = classifier.predict(pixels, noise=noise, with_delta=True)
        answer = page["answer"]
        assert page["preset"] == PRESETS[preset]
        check_answer(answer, expected)
        differences.append(np.abs(answer["logits"] - expected.logits[0]).max())
        assert page["said"].split(" ✓")[0].split(" ✗")[0] == expected.topk(1)[0][0][0]
        countered.append(answer["countered"])
    assert set(countered) == ({False} if PRESETS[preset] == "recommended" else {True, False})
    assert np.mean(differences) <= 5e-3
    again = found["chosen"][0]
    assert found["dropped"]["pixels"] == again["pixels"]
    assert found["dropped"]["answer"]["logits"] == again["answer"]["logits"]


@BY_PRESET
def test_live_attack_turns_labels_within_its_budget(drive, preset):
    found = drive("attack", preset=preset, most=2)
    flipped = []
    for one in found:
        clean, pixels = (np.array(one["after"][name]) * 255 for name in ("clean", "pixels"))
        np.testing.assert_array_equal(one["before"]["pixels"], one["after"]["clean"])
        np.testing.assert_allclose(pixels, np.rint(pixels), atol=1e-4)
        assert 0 < np.abs(pixels - clean).max() <= 2 + 1e-4
        assert pixels.min() >= 0
        assert pixels.max() <= 255
        before, after, restored = (
            np.argmax(one[when]["answer"]["undefendedLogits"]) for when in ("before", "after", "restored")
        )
        without, defended = one["steps"]
        assert len(without) == len(defended) == 11
        assert one["after"]["preset"] == PRESETS[preset]
        for mark, when in ((defended[0], "before"), (defended[-1], "after")):
            assert (mark == "✓") == (np.argmax(one[when]["answer"]["logits"]) == before)
        assert without[0] == "✓"
        assert (without[-1] == "✗") == (before != after)
        assert restored == before
        np.testing.assert_array_equal(one["restored"]["pixels"], one["before"]["pixels"])
        flipped.append(before != after)
    assert np.mean(flipped) >= 0.5


def test_threshold_decides_what_is_countered(drive):
    calibrated, low, high, reset = drive("threshold", query=WITH_NOISE, preset=PRESETS.index("published"))
    assert not low["countered"]
    assert high["countered"]
    assert low["at"] < calibrated["drift"] < high["at"]
    assert low["drift"] == high["drift"] == calibrated["drift"]
    assert low["logits"] != high["logits"]
    assert reset == calibrated
    for seen in (calibrated, low, high):
        assert seen["countered"] == (seen["drift"] < seen["at"])
        assert seen["verdict"].startswith("Countered." if seen["countered"] else "Not countered.")
        assert f"{seen['at']:.4f}" in seen["verdict"]
    assert calibrated["value"].endswith(", calibrated for this model")
    assert high["value"].endswith("not calibrated")
    # A mark stands left of the end of the zone where the picture is countered.
    assert all(
        (mark < end) == seen["countered"]
        for seen in (calibrated, low, high)
        for mark, end in [seen["places"]]
    )


def test_the_visitor_switches_between_the_presets(drive, models):
    description = json.loads((models / "classifier.json").read_text())
    first, other, attacked, back, again, during = drive("presets")
    assert [seen["preset"] for seen in (first, other, attacked, back, again, during)] == [
        PRESETS[i] for i in (0, 1, 1, 0, 1, 0)
    ]
    for seen in (first, other, back):
        defence = description["defences"][PRESETS.index(seen["preset"])]
        measure, sample = defence["measure"], defence["sample"]
        for words in defence["stages"].values():
            assert words in seen["texts"]["stages"]
        assert f"brought {sample['brought_back']} of those back" in seen["texts"]["gallery-words"]
        assert f"made {sample['lost_clean']} clean ones wrong" in seen["texts"]["gallery-words"]
        assert ("noise" in seen["texts"]["gallery-words"]) == defence["randomised"] == seen["drawable"]
        assert seen["measured"] == (measure is not None)
        added = "counterattack" if seen["answer"]["countered"] else "noise"
        assert seen["texts"]["delta-caption"].startswith(
            added if np.any(seen["answer"]["delta"]) else "nothing"
        )
        if measure is None:
            continue
        assert seen["texts"]["measure-heading"] == f"{measure['name'].capitalize()} and its threshold"
        words = seen["texts"]["measure-words"]
        assert f"Pictures whose {measure['name']} is below the threshold are countered." in words
        assert ("with noise" in words) == (defence["config"]["pass_through"] == "noise")
        assert sample["separation"] in words
        assert 2 < len(seen["ticks"]) < 10
        assert (max(map(float, seen["ticks"])) > 0.9) == measure["cosine"]
        calibrated = defence["config"]["tau_threshold"]
        assert seen["texts"]["threshold-value"].startswith(f"{calibrated:.4f}, calibrated")
        share = np.mean(np.array(sample["clean"]) < calibrated)
        assert f"lie {round(100 * share)} %" in seen["texts"]["below"]
    # A threshold that the visitor chose is there again when its defence is.
    assert other["threshold"] == attacked["threshold"] > again["threshold"]
    assert again["texts"]["threshold-value"] == f"{again['threshold']:.4f}, not calibrated"
    # The picture, attacked as it is, goes along; what is said of the steps was said of the other defence.
    assert attacked["steps"] > 0 == other["steps"] == back["steps"]
    assert back["pixels"] == attacked["pixels"] != first["pixels"]
    # An attack that goes on ends with a switch.
    assert during["steps"] == 0
    assert during["pixels"] != during["clean"]


def test_all_of_it_works_by_keyboard(drive, files):
    found = drive("keyboard", file=str(files["wide.png"]))
    assert {stop["outline"] for stop in found["stops"]} == {"3px rgb(9, 105, 218)"}, found["stops"]
    first, second, third = found["captions"]
    assert second == f"{first}, attacked"
    assert third == "wide.png"
    assert found["presets"] == [PRESETS[1], PRESETS[0]]
    before, after, reset = found["thresholds"]
    assert after > before == reset
    assert found["redrawn"]
    assert found["furthest"] == pytest.approx(4 / 255, abs=1e-6)
    assert found["restored"]


@BY_PRESET
def test_narrow_and_wide_in_light_and_dark(drive, preset):
    found = drive("layout", preset=preset)
    for seen in found:
        assert seen["overflow"] == 0, seen
        assert seen["texts"] > 60, seen
        assert seen["least"]["contrast"] >= 4.5, seen
    assert len({(seen["colorScheme"], seen["background"]) for seen in found}) == 2
    assert len({seen["background"] for seen in found}) == 2


def test_threads_where_the_server_isolates_the_page_and_one_elsewhere(drive, isolated_address):
    plain, isolated = drive("runtimes"), drive("runtimes", url=isolated_address)
    assert plain["said"] == plain["known"]["runtime"] == "WebAssembly on one thread"
    assert plain["links"] == isolated["links"] == []
    assert plain["threads"] == 0
    threads = min(os.cpu_count() or 1, 4)
    assert isolated["said"] == (f"WebAssembly on {threads} threads" if threads > 1 else plain["said"])
    assert isolated["threads"] == threads - 1  # beside the page's own


@pytest.mark.slow  # a software adapter compiles each operator
def test_webgpu_where_the_browser_has_it(drive, site):
    """On a CPU it takes its time: one picture."""
    query = f"{WITH_NOISE}&runtime=webgpu"
    found = drive("runtimes", query=query, preset=PRESETS.index("published"), gpu=True, countered=True)
    assert found["said"] == found["known"]["runtime"] == "WebGPU"
    assert found["links"] == [
        ["WebAssembly", "?noise=noise.bin&runtime=wasm"],
        ["WebGPU", "?noise=noise.bin&runtime=webgpu"],
    ]
    assert found["current"] == ["WebGPU"]
    pixels, noise = (
        np.array(found["known"][name], np.float32).reshape(1, 3, 96, 96) for name in ("pixels", "noise")
    )
    classifier = OnnxClassifier(site / "models/drawn/published.onnx")
    expected = classifier.predict(
        pixels, noise=noise, tau_threshold=found["known"]["threshold"], with_delta=True
    )
    assert expected.countered[0]
    check_answer(found["known"]["answer"], expected)
    assert drive("refused", query="?runtime=webgpu") == "this browser has no runtime webgpu; it has: wasm"


def test_the_model_of_photographs_waits_for_a_visitor_s(drive, files):
    found = drive("models", file=str(files["wide.png"]))
    assert found["links"] == ["drawn shapes", "photographs"]
    first, other, answered = found["seen"]
    assert first["current"] == "drawn shapes"
    assert first["gallery"]
    assert first["answers"]
    assert other["current"] == answered["current"] == "photographs"
    assert not other["gallery"]
    assert not other["answers"]
    assert other["knows"] == "The model knows ten kinds of animals and vehicles, and nothing else."
    assert answered["answers"]
    assert answered["caption"] == "wide.png"
    assert answered["below"] == ""
    assert answered["measured"]
    assert len(found["steps"][0]) == 11
    pixels, clean = (np.array(found["attacked"][name]) * 255 for name in ("pixels", "clean"))
    assert len(pixels) == 3 * 32 * 32
    assert 0 < np.abs(pixels - clean).max() <= 2 + 1e-4
    assert "no model nothing here; there is: drawn, photographs" in found["missing"]


def test_wrong_files_are_told(drive, site, tmp_path):
    pictures = {
        "notes.txt": (b"no picture", "notes.txt: not a picture that this browser can decode"),
        "broken.png": (b"\x89PNG\r\n\x1a\n" + bytes(40), "broken.png: not a picture"),
        "empty.png": (b"", "empty.png: expected a picture, got zero bytes"),
    }
    for name, (data, _) in pictures.items():
        (tmp_path / name).write_bytes(data)
    Image.new("RGB", (1, 12000)).save(tmp_path / "thread.png")
    models = site / "models/drawn"
    (tmp_path / "half.onnx").write_bytes((models / "recommended.onnx").read_bytes()[:100_000])
    (tmp_path / "half.bin").write_bytes((models / "weights.bin").read_bytes()[:100_000])
    (tmp_path / "list.json").write_text("[1, 2]")
    description = json.loads((models / "classifier.json").read_text())
    del description["metadata"]["classnames"][0]
    (tmp_path / "fewer.json").write_text(json.dumps(description))
    replaced = {
        "missing model": (
            "recommended.onnx",
            None,
            "cannot read models/drawn/recommended.onnx: the server answered 404",
        ),
        "truncated model": (
            "recommended.onnx",
            "half.onnx",
            "models/drawn/recommended.onnx: ONNX Runtime cannot load it",
        ),
        "truncated weights": (
            "weights.bin",
            "half.bin",
            "models/drawn/recommended.onnx: ONNX Runtime cannot load it",
        ),
        "missing weights": (
            "weights.bin",
            None,
            "cannot read models/drawn/weights.bin: the server answered 404",
        ),
        "missing preset": (
            "published.onnx",
            None,
            "cannot read models/drawn/published.onnx: the server answered 404",
        ),
        "text for a model": (
            "undefended.onnx",
            "notes.txt",
            "models/drawn/undefended.onnx: ONNX Runtime cannot load",
        ),
        "foreign model": (
            "recommended.onnx",
            models / "undefended.onnx",
            "another model than classifier.json",
        ),
        "fewer classes": ("classifier.json", "fewer.json", "another model than classifier.json describes"),
        "no description": (
            "classifier.json",
            "list.json",
            "models/drawn/classifier.json: not what models.py writes",
        ),
        "missing gradient": ("gradient.onnx", None, "cannot read models/drawn/gradient.onnx"),
    }
    found = drive(
        "messages",
        pictures=[str(tmp_path / name) for name in (*pictures, "thread.png")],
        replaced={
            title: {"file": file, "status": 404, **({} if body is None else {"body": str(tmp_path / body)})}
            for title, (file, body, _) in replaced.items()
        },
    )
    for name, (_, message) in pictures.items():
        assert found[str(tmp_path / name)]["message"].startswith(message)
    assert "too long and narrow" in found[str(tmp_path / "thread.png")]["message"]
    assert all(found[str(tmp_path / name)]["kept"].startswith("drawn as") for name in pictures)
    assert found["text"]["message"] == "expected a picture file, got something else"
    assert found["after"]["hidden"]
    assert found["noise"]["message"].startswith(
        "models/drawn/classifier.json: expected 110592 bytes of float32 noise"
    )
    for title, (_, _, message) in replaced.items():
        assert message in found[title]["message"], title
        assert found[title]["heading"]
    assert found["missing preset"]["chosen"] == 0


def test_own_policy_refuses_other_origins_and_code_from_text(drive, address):
    refused = drive("isolation", elsewhere=address.replace("127.0.0.1", "localhost"))
    assert set(refused["directives"]) == {"connect-src", "img-src", "script-src-elem"}
    assert not refused["ran"]


def test_screenshot(drive, tmp_path):
    made, kept = tmp_path / "screenshot.png", HERE / "screenshot.png"
    refresh = "CLIPFAST_REFRESH" in os.environ
    drive("screenshot", path=str(made), tries=24 if refresh else 1)
    if refresh:
        shutil.copy(made, kept)
    with Image.open(made) as ours, Image.open(kept) as theirs:
        assert len(set(ours.convert("RGB").get_flattened_data())) > 1000
        assert ours.width == theirs.width == 1000
        assert theirs.height == pytest.approx(ours.height, rel=0.1)
