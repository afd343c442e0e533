"""The server starts on what was written, and answers over the wire as the artifact does here."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from hand_made import WEIGHTS, expected, make_metadata, write_onnx
from inference_server import free_port
from numpy.typing import NDArray
from PIL import Image
from repository import write_model
from scipy import stats
from scripts import without
from served import ServedClassifier, ServedFiles

from clipfast import ArtifactError, InputError
from clipfast.preprocess import image_files
from clipfast.runtime import OnnxClassifier

# What a client's machine need not have.
LEAN = "torch onnx onnxruntime open_clip"

GREY = np.full((1, 3, 32, 32), 0.25, np.float32)


@pytest.fixture(scope="module")
def local(artifact):
    return OnnxClassifier(artifact("serving.onnx"))


@pytest.fixture
def served(server):
    with closing(ServedClassifier(server.url, "clipfast")) as classifier:
        yield classifier


@pytest.fixture(scope="module")
def pixels(local, pictures):
    return local.preprocess.batch(image_files([pictures]))


@pytest.fixture(scope="module")
def client(server) -> Iterator[Any]:
    with grpcclient.InferenceServerClient(server.url) as connected:
        yield connected


def ask(client: Any, model: str, version: str = "") -> tuple[str, NDArray[Any]]:
    """The version that answers for one grey picture of a hand-made model, and its undefended logits."""
    tensor = grpcclient.InferInput("pixels", list(GREY.shape), "FP32")
    tensor.set_data_from_numpy(GREY)
    answer = client.infer(model, [tensor], version, client_timeout=60)
    return answer.get_response().model_version, answer.as_numpy("undefended_logits")


def same_distribution(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Kolmogorov's and Smirnov's test; false once in a million times where it is true."""
    found: Any = stats.ks_2samp(a, b)
    return found.pvalue > 1e-6


def wait(client: Any, model: str, version: str, *, ready: bool = True) -> None:
    end = time.monotonic() + 120
    while client.is_model_ready(model, version) != ready:
        assert time.monotonic() < end, f"version {version} of {model} does not become {ready=}"
        time.sleep(0.1)


def test_the_server_knows_what_the_artifact_says(served, local):
    assert served.metadata == local.metadata
    assert served.classnames == local.classnames
    assert served.preprocess == local.preprocess
    assert served.calibrated


def test_undefended_logits_are_the_runtimes(served, local, pixels):
    assert len(pixels) == 48 > 32  # more than the server takes at once
    there, here = served.predict(pixels), local.predict(pixels)
    np.testing.assert_allclose(there.undefended_logits, here.undefended_logits, atol=1e-4)
    assert there.drift.shape == there.countered.shape == (48,)
    assert there.logits.dtype == there.drift.dtype == np.float32
    assert there.countered.dtype == np.bool_
    assert served.stats().images == 48


def test_defended_answers_are_draws_of_the_runtimes(served, local, pixels):
    threshold = np.float32(local.config.tau_threshold)
    for picture in pixels[:3]:
        repeated = picture[None].repeat(96, 0)
        there, here = served.predict(repeated), local.predict(repeated)
        np.testing.assert_array_equal(there.countered, there.drift < threshold)
        assert len(np.unique(there.drift)) > 90, "the noise was not drawn anew"
        best = here.logits.mean(0).argmax()
        for a, b in ((there.drift, here.drift), (there.logits[:, best], here.logits[:, best])):
            assert same_distribution(a, b)


def test_settings_that_draw_nothing_answer_as_the_runtime_does(server, artifact, pixels):
    here = OnnxClassifier(artifact("recommended.onnx")).predict(pixels)
    with closing(ServedClassifier(server.url, "recommended")) as classifier:
        there = classifier.predict(pixels)
    np.testing.assert_allclose(there.logits, here.logits, atol=1e-4)
    np.testing.assert_allclose(there.undefended_logits, here.undefended_logits, atol=1e-4)
    assert not there.countered.any()
    assert there.changed.any()


def test_labels_are_the_runtimes_where_noise_seldom_moves_them(served, local, pixels):
    draws = np.stack([local.predict(pixels).labels for _ in range(8)])
    steady = (draws == draws[0]).all(axis=0)
    assert steady.sum() >= 12
    there = served.predict(pixels)
    assert (there.labels == draws[0])[steady].mean() > 0.7
    assert there.countered.any()
    assert not there.countered.all()


def test_an_empty_batch(served):
    prediction = served.predict(np.zeros((0, 3, 96, 96), np.uint8))
    assert prediction.logits.shape == (0, 120)
    assert prediction.countered.shape == (0,)
    with pytest.raises(InputError, match="takes uint8 pixels"):
        served.predict(np.zeros((1, 3, 96, 96), np.float32))


def test_the_server_labels_by_name(client, local, pixels):
    tensor = grpcclient.InferInput("pixels", [2, 3, 96, 96], "UINT8")
    tensor.set_data_from_numpy(pixels[:2])
    asked = [grpcclient.InferRequestedOutput("undefended_logits", class_count=3)]
    answer = client.infer("clipfast", [tensor], outputs=asked).as_numpy("undefended_logits")
    best = np.argsort(-local.predict(pixels[:2]).undefended_logits, axis=1)[:, :3]
    for row, indices in zip(answer, best, strict=True):
        said = [entry.decode().split(":")[1:] for entry in row]
        assert said == [[str(index), local.classnames[index]] for index in indices]


def test_warm_ups_run_before_the_model_is_ready(server):
    for name in ("least_drift", "most_drift"):
        for batch in (1, 32):
            line = f"model 'clipfast' instance clipfast_0_0 is running warmup sample '{name} x {batch}'"
            assert server.log.count(line) == 1, line


def test_concurrent_requests_are_batched_and_each_gets_its_own_rows(server, client):
    colours = np.random.default_rng(0).random((42, 3), np.float32)
    pictures = colours[:, :, None, None].repeat(32, 2).repeat(32, 3)
    requests = np.split(pictures, np.cumsum([1, 2, 3, 1] * 6)[:-1])
    assert [len(request) for request in requests[-2:]] == [3, 1]
    with closing(ServedClassifier(server.url, "tiny", timeout=60)) as classifier:
        before = client.get_inference_statistics("tiny").model_stats[0]
        with ThreadPoolExecutor(len(requests)) as pool:
            answers = list(pool.map(classifier.predict, requests))
        after = client.get_inference_statistics("tiny").model_stats[0]
    for request, answer in zip(requests, answers, strict=True):
        own = expected(request, np.zeros_like(request)).undefended_logits
        np.testing.assert_allclose(answer.undefended_logits, own, atol=1e-4)
    assert after.inference_count - before.inference_count == len(colours)
    assert len(colours) / 8 <= after.execution_count - before.execution_count < len(requests)
    assert 3 < max(entry.batch_size for entry in after.batch_stats) <= 8


def test_a_newer_version_is_served_beside_the_older(server, client, model_repository, tiny, tmp_path):
    write_model(tiny, model_repository, name="growing")
    wait(client, "growing", "1")
    newer = write_onnx(tmp_path / "b.onnx", make_metadata(profile="serving"), weights=-WEIGHTS)
    version, first = ask(client, "growing")
    assert version == "1"
    stop, failures, answered = threading.Event(), [], Counter()

    def go_on() -> None:
        while not stop.is_set():
            try:
                answered[ask(client, "growing")[0]] += 1
            except Exception as error:
                failures.append(error)

    traffic = threading.Thread(target=go_on)
    with closing(ServedClassifier(server.url, "growing")) as pinned:
        traffic.start()
        try:
            write_model(newer, model_repository, name="growing", version=2)
            wait(client, "growing", "2")
            seen = answered["2"]
            while answered["2"] == seen and not failures:
                time.sleep(0.01)
        finally:
            stop.set()
            traffic.join()
        assert not failures
        assert answered["1"] > 0
        np.testing.assert_allclose(pinned.predict(GREY).undefended_logits, first, atol=1e-5)
    for asked, answers, logits in (("1", "1", first), ("2", "2", -first), ("", "2", -first)):
        version, got = ask(client, "growing", asked)
        assert version == answers
        np.testing.assert_allclose(got, logits, atol=1e-5)
    with closing(ServedClassifier(server.url, "growing")) as newest:
        np.testing.assert_allclose(newest.predict(GREY).undefended_logits, -first, atol=1e-5)
    write_model(tiny, model_repository, name="growing", version=3)
    wait(client, "growing", "3")
    wait(client, "growing", "1", ready=False)
    with pytest.raises(ArtifactError, match=r"does not serve version 1 of 'growing': .*version 3 is READY"):
        ServedClassifier(server.url, "growing", version=1)


REFUSED = {
    "cats": r"has no model 'cats'; it has: .*clipfast, foreign",
    "foreign": "foreign/1: carries no clipfast metadata",
    "mixed": r"\[5\] as output 'logits', its config.pbtxt TYPE_FP32 \[4\]",
}


@pytest.mark.parametrize("model", REFUSED)
def test_a_model_that_cannot_be_used_is_said(server, model):
    with pytest.raises(ArtifactError, match=REFUSED[model]):
        ServedClassifier(server.url, model)


def test_a_model_that_is_not_ready_is_said(server, model_repository, tiny, tmp_path):
    folder = write_model(tiny, tmp_path / "aside", name="broken")
    (folder / "model.onnx").write_bytes(b"no model")
    folder.parent.rename(model_repository / "broken")
    try:
        said, end = "", time.monotonic() + 120
        while "UNAVAILABLE" not in said:  # the server has yet to look, to try, and to fail
            assert time.monotonic() < end, said
            with pytest.raises(ArtifactError) as caught:
                ServedClassifier(server.url, "broken")
            said = str(caught.value)
            time.sleep(0.1)
        assert re.search(r"does not serve 'broken': version 1 is UNAVAILABLE \(.*Protobuf", said)
    finally:
        shutil.rmtree(model_repository / "broken")  # the server would try it again at every look


def test_a_server_or_version_that_is_not_there_is_said(server):
    with pytest.raises(ArtifactError, match=r"does not serve version 7 of 'clipfast': version 1 is READY"):
        ServedClassifier(server.url, "clipfast", version=7)
    with pytest.raises(ArtifactError, match=r"is not available \(gRPC, by default on port 8001\)"):
        ServedClassifier(f"127.0.0.1:{free_port()}", "clipfast")
    with pytest.raises(InputError, match="positive number of seconds"):
        ServedClassifier(server.url, "clipfast", timeout=0)


def test_a_server_that_hangs_is_waited_for_so_long(pictures):
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen()
        url = f"127.0.0.1:{hanging.getsockname()[1]}"
        done = without(LEAN, "client.py", pictures, "--url", url, "--timeout", 0.5)
    assert done.returncode == 2
    assert f"error: {url} gave no answer within 0.5 s" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_client_prints_what_classify_prints(server, artifact, pictures, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no more")
    Image.new("RGB", (200, 120), "white").save(tmp_path / "white.jpg")
    inputs = [pictures / "clean", tmp_path, "nowhere.png"]
    there = without(LEAN, "client.py", *inputs, "--url", server.url, "--json", "--topk", 3)
    command = ["-m", "clipfast", "classify", *inputs, "--artifact", artifact("serving.onnx")]
    here = subprocess.run([sys.executable, *command, "--json", "--topk", "3"], capture_output=True, text=True)
    assert there.returncode == here.returncode == 1
    assert "broken.png" in there.stderr
    assert "2 of 27 inputs could not be read" in there.stderr
    assert there.stderr == here.stderr
    rows, wanted = ([json.loads(line) for line in done.stdout.splitlines()] for done in (there, here))
    assert len(rows) == 25
    for row, local in zip(rows, wanted, strict=True):
        assert row.keys() == local.keys()
        for key in ("image", "undefended_class", "calibrated"):
            assert row[key] == local[key]
        assert len(row["topk"]) == 3
        assert row["changed"] == (row["class"] != row["undefended_class"])


def test_the_server_takes_files_as_they_are(server, pictures, tmp_path):
    """What is sent is not decoded here, and what cannot be decoded there is skipped."""
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no more")
    (tmp_path / "empty.png").write_bytes(b"")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right
    drawn = Image.open(next(iter(sorted((pictures / "clean").iterdir()))))
    drawn.convert("RGB").resize((300, 200)).save(tmp_path / "turned.jpg", exif=exif)
    inputs = [pictures / "clean", tmp_path, "nowhere.png"]
    options = ["--url", server.url, "--model", "recommended", "--json", "--topk", 3]
    there = without(LEAN, "client.py", *inputs, *options, "--send-files", "--batch-size", 5)
    here = without(LEAN, "client.py", *inputs, *options)
    assert there.returncode == here.returncode == 1
    assert "3 of 28 inputs could not be read" in there.stderr
    for name in ("broken.png", "empty.png", "nowhere.png"):
        assert name in there.stderr
    rows, wanted = ([json.loads(line) for line in done.stdout.splitlines()] for done in (there, here))
    assert len(rows) == len(wanted) == 25
    for row, local in zip(rows, wanted, strict=True):
        for key in ("image", "class", "undefended_class", "countered", "changed", "calibrated"):
            assert row[key] == local[key]
        assert row["probability"] == pytest.approx(local["probability"], abs=1e-4)


def test_a_model_of_float_pixels_takes_files_too(server, tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    picture.save(tmp_path / "a.png")
    x = np.asarray(picture).transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
    with closing(ServedFiles(server.url, "tiny")) as classifier:
        assert classifier.metadata.pixels == "float32"
        (answered,) = classifier.answers([tmp_path / "a.png"], 4)
        assert classifier.stats().images == 1
    wanted = expected(x, np.zeros_like(x)).undefended_logits
    np.testing.assert_allclose(answered.prediction.undefended_logits, wanted, atol=1e-4)


def test_files_are_for_models_with_a_chain_and_for_the_newest_version(server, pictures):
    with pytest.raises(ArtifactError, match=r"does not serve 'clipfast_files', which takes files"):
        ServedFiles(server.url, "clipfast")
    refused = without(LEAN, "client.py", pictures, "--url", server.url, "--send-files", "--version", 1)
    assert refused.returncode == 2
    assert "--send-files asks the newest version, got --version 1 too" in refused.stderr


def test_the_client_prints_a_table(server, pictures):
    done = without(LEAN, "client.py", pictures, "--url", server.url, "--batch-size", 40)
    assert done.returncode == 0, done.stderr
    assert "probability" in done.stdout
    assert "48 images, " in done.stdout
    failed = without(LEAN, "client.py", pictures, "--url", server.url, "--model", "cats")
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: the server at ")
    assert "has no model 'cats'" in failed.stderr
