"""Exported files of the bundled model where they are used: real pictures, long sessions, no torch."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from attacked_pictures import write_pictures

from clipfast import DefendedClassifier
from clipfast.exporters import export, verify
from clipfast.models.shapes import draw
from clipfast.preprocess import image_files
from clipfast.runtime import OnnxClassifier

KINDS = ["lab", "static", "fp16"]


@pytest.fixture(scope="module")
def attacked_files(bundled, tmp_path_factory) -> list[Path]:
    """PNG files, clean and under the demo's attack."""
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder, bundled, 12, seed=(3, 1))
    return list(image_files([folder]))


@pytest.mark.parametrize("kind", KINDS)
def test_attacked_png_files_get_the_library_s_answers(kind, exported, bundled, attacked_files):
    served = OnnxClassifier(exported(kind).path)
    pixels = served.preprocess.batch(attacked_files)
    assert np.array_equal(pixels, bundled.preprocess.batch(attacked_files))
    answer = served.predict(pixels, seed=4)
    expected = bundled.predict(torch.from_numpy(pixels), seed=4)
    assert 0 < expected.countered.sum() < len(expected)
    assert answer.countered.tolist() == expected.countered.tolist()
    tolerance = 1.5 if kind == "fp16" else 5e-2  # one sign more that half precision flips is one logit
    np.testing.assert_allclose(answer.logits, expected.logits.numpy(), atol=tolerance)
    margin = expected.logits.topk(2).values.diff(dim=1).abs()[:, 0] > 2 * tolerance
    assert margin.float().mean() > 0.8
    assert np.array_equal(answer.labels[margin.numpy()], expected.labels[margin].numpy())


def test_the_command_line_gives_the_same_answers(exported, run, attacked_files, bundled):
    folder = attacked_files[0].parent.parent
    code, out, _ = run("classify", folder, "--artifact", exported("lab").path, "--json", "--seed", 5)
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    expected = bundled.predict(torch.from_numpy(bundled.preprocess.batch(attacked_files)), seed=5)
    assert [row["image"] for row in rows] == list(map(str, attacked_files))
    assert [row["class"] for row in rows] == [best[0][0] for best in expected.topk(1)]
    assert [row["countered"] for row in rows] == expected.countered.tolist()


def resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024


def test_a_long_session_of_all_batch_sizes_answers_right_and_keeps_no_memory(exported, bundled):
    served = OnnxClassifier(exported("lab").path)
    pixels = draw(8, seed=(5, 5)).pixels
    drift = served.predict(pixels, seed=0).drift
    middle = float(np.sort(drift)[3:5].mean())
    expected = {t: served.predict(pixels, seed=0, tau_threshold=t).logits for t in (0.0, middle, 1e9)}
    reference = bundled.predict(torch.from_numpy(pixels), seed=0)
    np.testing.assert_allclose(served.predict(pixels, seed=0).drift, reference.drift, rtol=1e-5, atol=2e-6)
    sizes = np.random.default_rng(0).integers(1, 9, 150)
    settled = 0
    for call, n in enumerate(sizes):
        threshold = list(expected)[call % 3]
        answer = served.predict(pixels[:n], seed=0, tau_threshold=threshold)
        # A product's rounding depends on its size, and so may a sign.
        np.testing.assert_allclose(answer.logits, expected[threshold][:n], atol=5e-2)
        if call == 30:
            settled = resident()
    assert resident() < settled + 20 * 2**20


def test_sessions_draw_noise_of_their_own_and_anew(exported, bundled):
    pixels = np.repeat(draw(1, seed=(6, 6)).pixels, 4, axis=0)
    one, other = (OnnxClassifier(exported("serving").path) for _ in range(2))
    drifts = [served.predict(pixels).drift for served in (one, one, other, other)]
    assert len({float(tau) for drift in drifts for tau in drift}) == 16
    draws = bundled.predict(torch.from_numpy(np.repeat(pixels, 16, axis=0)), seed=0).drift
    assert abs(np.mean(drifts) - draws.mean().item()) < 4 * draws.std().item() / 4


def test_the_twin_s_drift_is_the_original_s(twin: DefendedClassifier, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        written = export(twin, tmp_path / "twin.onnx", profile="lab", static=True, verify=False)
        pixels = draw(8, seed=(7, 7)).pixels
        verification = verify(written.path, twin, images=pixels[:2])
    assert verification.agrees, verification.failures
    assert written.metadata.drift_weights_sha256 is not None
    served = OnnxClassifier(written.path)
    answer, expected = served.predict(pixels, seed=1), twin.predict(torch.from_numpy(pixels), seed=1)
    np.testing.assert_allclose(answer.drift, expected.drift, rtol=1e-5, atol=2e-6)
    assert answer.countered.tolist() == expected.countered.tolist()
