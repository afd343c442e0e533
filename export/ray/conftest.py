"""What the tests of Ray Data and Ray Serve share."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path

import numpy as np
import pytest
from answers import load
from PIL import Image

from clipfast.models.shapes import draw
from clipfast.prediction import Prediction
from clipfast.preprocess import image_files


@pytest.fixture
def scratch():
    """A folder of a short name: Ray keeps sockets in it, whose paths may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def noise_key(tmp_path_factory) -> Path:
    """A key by which the same picture gets the same answer from whoever classifies it."""
    path = tmp_path_factory.mktemp("key") / "key"
    path.write_bytes(secrets.token_bytes(32))
    path.chmod(0o600)
    return path


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """A folder of 24 drawn pictures, half of them in a folder below it; the gate lets some pass."""
    folder = tmp_path_factory.mktemp("drawn")
    (folder / "more").mkdir()
    for index, pixels in enumerate(draw(24, seed=7, size=96).pixels):
        name = f"more/{index}.png" if index % 2 else f"{index}.png"
        Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / name)
    return folder


@pytest.fixture(scope="session")
def files(drawn) -> list[Path]:
    """The drawn pictures."""
    return list(image_files([drawn]))


@pytest.fixture(scope="session")
def expected(artifact, noise_key, files) -> dict[Path, dict]:
    """What the bare runtime says of each picture, one at a time, and how far batches may differ from it."""
    classifier = load(artifact("lab.onnx"), noise_key=noise_key)
    found = {}
    for file in files:
        prediction: Prediction = classifier.predict(classifier.preprocess.batch([file]))
        [(label, probability)] = prediction.topk(1)[0]
        found[file] = {
            "label": label,
            "probability": probability,
            "drift": float(prediction.drift[0]),
            "countered": bool(prediction.countered[0]),
            "changed": bool(prediction.changed[0]),
        }
    assert len({answer["countered"] for answer in found.values()}) == 2, "expected both sorts of pictures"
    return found


@pytest.fixture(scope="session")
def same():
    """A function that compares an answer with the expected one; rounding flips signs of a few pixels."""

    def compare(got: dict, wanted: dict) -> None:
        for name in ("label", "countered", "changed"):
            assert got[name] == wanted[name], (name, got, wanted)
        np.testing.assert_allclose(got["drift"], wanted["drift"], rtol=1e-3)
        tolerance = 0.02 if wanted["countered"] else 1e-4
        np.testing.assert_allclose(got["probability"], wanted["probability"], atol=tolerance)

    return compare
