from __future__ import annotations

import copy
import importlib.util
import logging
import pickle
import subprocess
import sys
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import make_classifier, pixels
from hand_made import (
    CONFIG,
    SHA256,
    WEIGHTS,
    expected,
    make_metadata,
    make_onnx,
    write_aotinductor,
    write_onnx,
    write_torchscript,
)

from clipfast import ArtifactError, CounterattackConfig, InputError, UncalibratedWarning
from clipfast.artifacts.formats import FORMATS
from clipfast.artifacts.metadata import SCHEMA
from clipfast.artifacts.sessions.providers import check_used, usable
from clipfast.inputs.noise import fresh_keys
from clipfast.inputs.philox import linf_noise
from clipfast.runtime import OnnxClassifier, OpenVinoClassifier, load_artifact, sha256_of

SERVING = ("onnxruntime", "openvino")
IN_EACH = pytest.mark.parametrize("runtime", [*SERVING, "reference"])
WHERE_IT_SERVES = pytest.mark.parametrize("runtime", SERVING)


@pytest.fixture
def x():
    return pixels(8).numpy()


def unit(x):
    return x.astype(np.float32) / np.float32(255)


def draw(n, seed=0, first=0, eps=CONFIG.eps):
    images = np.arange(first, first + n, dtype=np.uint32)
    return linf_noise(np.full(n, seed, np.uint64), images, (3, 32, 32), eps)


def split(noise):
    """A threshold between two images' drifts, in the hand-made classifier's measure."""
    ordered = np.sort(np.abs(noise).mean(axis=(1, 2, 3)) / CONFIG.eps)
    return float((ordered[len(noise) // 2 - 1] + ordered[len(noise) // 2]) / 2)


@pytest.fixture
def make(tmp_path):
    def call(*, weights=WEIGHTS, runtime="onnxruntime", options=None, **changes):
        path = write_onnx(tmp_path / "classifier.onnx", make_metadata(**changes), weights=weights)
        return load_artifact(path, runtime=runtime, **(options or {}))

    return call


@pytest.fixture(scope="module")
def torchscript(tmp_path_factory):
    return write_torchscript(tmp_path_factory.mktemp("script") / "a.ts.pt", make_metadata().to_json())


@pytest.fixture(scope="module")
def aotinductor(tmp_path_factory):
    return write_aotinductor(tmp_path_factory.mktemp("inductor") / "a.pt2", make_metadata().to_json())


def check(prediction, answer):
    assert 0 < answer.countered.sum() < len(prediction)
    np.testing.assert_allclose(prediction.logits, answer.logits, atol=1e-4)
    np.testing.assert_allclose(prediction.undefended_logits, answer.undefended_logits, atol=1e-4)
    np.testing.assert_allclose(prediction.drift, answer.drift, rtol=1e-5)
    np.testing.assert_array_equal(prediction.countered, answer.countered)
    assert all(array.dtype == np.float32 for array in (prediction.logits, prediction.drift))
    assert prediction.countered.dtype == np.bool_


@IN_EACH
@pytest.mark.parametrize("kind", ["float32", "uint8"])
@pytest.mark.parametrize("batch", [None, 3, 8, 11])
def test_predict_gives_the_files_answers(make, x, runtime, kind, batch):
    noise = draw(8)
    classifier = make(pixels=kind, batch=batch, runtime=runtime)
    prediction = classifier.predict(x, noise=noise, tau_threshold=split(noise), with_delta=True)
    check(prediction, expected(unit(x), noise, split(noise)))
    np.testing.assert_array_equal(prediction.delta, noise)
    assert prediction.embedding is None
    assert prediction.classnames == ("red", "green", "blue", "grey")
    stats = classifier.stats()
    assert (stats.images, stats.countered) == (8, 4)
    assert stats.changed == prediction.changed.sum()
    assert stats.drift_histogram.sum() == 8
    ((place, nodes),) = stats.placed.items()
    assert (
        place == {"onnxruntime": "CPUExecutionProvider", "openvino": "CPU", "reference": "reference"}[runtime]
    )
    assert nodes > 3
    classifier.reset_stats()
    assert classifier.stats().images == 0


def test_files_of_torch_give_the_same_answers(torchscript, aotinductor, x):
    noise = draw(8)
    still = unit(x)
    still.flags.writeable = False  # torch would warn
    for path in (torchscript, aotinductor):
        classifier = load_artifact(path, trust=True)
        prediction = classifier.predict(still, noise=noise, tau_threshold=split(noise), with_delta=True)
        check(prediction, expected(unit(x), noise, split(noise)))
        np.testing.assert_array_equal(prediction.delta, noise)
        with torch.autocast("cpu", torch.bfloat16):
            around = classifier.predict(x, noise=noise, tau_threshold=split(noise))
        np.testing.assert_array_equal(around.logits, prediction.logits)
        assert classifier.stats().images == 16
        assert type(classifier).__name__ in repr(classifier)


def test_a_prediction_of_arrays_reads_as_one_of_tensors(make, x):
    classifier = make()
    prediction = classifier.predict(x, seed=1)
    logits = torch.from_numpy(prediction.logits)
    np.testing.assert_allclose(prediction.probabilities, logits.softmax(dim=1).numpy(), rtol=1e-5)
    np.testing.assert_array_equal(prediction.labels, logits.argmax(1).numpy())
    np.testing.assert_array_equal(
        prediction.changed, prediction.logits.argmax(1) != prediction.undefended_logits.argmax(1)
    )
    best = logits.softmax(dim=1).topk(2)
    for row, indices, values in zip(prediction.topk(2), best.indices.tolist(), best.values, strict=True):
        assert [name for name, _ in row] == [prediction.classnames[i] for i in indices]
        assert [value for _, value in row] == pytest.approx(values.tolist())
    assert len(prediction.topk(99)[0]) == 4
    with pytest.raises(InputError, match="k must be at least 1"):
        prediction.topk(0)


@IN_EACH
@pytest.mark.parametrize("changes", [{}, {"batch": 4}, {"profile": "serving"}])
def test_empty_batch(make, runtime, changes):
    classifier = make(**changes, runtime=runtime)
    lab = classifier.metadata.profile == "lab"
    prediction = classifier.predict(np.zeros((0, 3, 32, 32)), with_delta=lab)
    assert prediction.logits.shape == (0, 4)
    assert prediction.delta is None or prediction.delta.shape == (0, 3, 32, 32)
    assert prediction.topk() == []
    assert classifier.stats().images == 0


def test_what_the_file_says_is_there_to_read(make):
    classifier = make(options={"threads": 1})
    assert classifier.classnames == classifier.metadata.classnames
    assert classifier.config == CONFIG
    assert classifier.image_size == classifier.preprocess.size == (32, 32)
    assert classifier.calibrated
    assert [*classifier.stats().placed] == ["CPUExecutionProvider"]
    assert "classifier.onnx" in repr(classifier)
    assert "lab, 4 classes, 32 x 32 pixels as float32" in repr(classifier)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_noise_is_the_librarys_for_the_same_seed_and_content(make, tiny_clip, tokenizer, norm):
    config = CounterattackConfig(tau_threshold=0, norm=norm)  # passes all, so that delta is the noise
    key = {"noise_policy": "content", "noise_key": b"0123456789abcdef"}
    middle = np.full((5, 3, 32, 32), 128, np.uint8)  # far from 0 and 1, which noise is moved into
    middle[:, 0, 0] += np.arange(5, dtype=np.uint8)[:, None]
    library = make_classifier(tiny_clip, tokenizer, config=config, **key)
    unmarked = {"config": config, "calibrated": False}
    for changes in ({}, {"batch": 2}, {"pixels": "uint8"}):
        with pytest.warns(UncalibratedWarning, match="tau_threshold = 0 was not calibrated"):
            classifier = make(options=key, **unmarked, **changes)
        for options in ({"seed": 2**64 - 3, "first_image": 2**32 - 5}, {"seed": np.int64(7)}, {}):
            ours = classifier.predict(middle, with_delta=True, **options).delta
            theirs = library.predict(torch.from_numpy(middle), with_delta=True, **options).delta.numpy()
            if norm == "linf":
                np.testing.assert_array_equal(ours, theirs)
            else:
                np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-8)
        assert not classifier.predict(middle, seed=1).calibrated


def test_uint8_pixels_are_divided_as_torch_divides_them(make):
    levels = np.arange(256, dtype=np.uint8).repeat(12).reshape(1, 3, 32, 32)
    seen = []
    classifier = make()
    session = classifier._session
    run = session._run
    session._run = lambda inputs, outputs: seen.append(inputs["pixels"]) or run(inputs, outputs)
    classifier.predict(levels)
    np.testing.assert_array_equal(seen[0], torch.from_numpy(levels).div(255.0).numpy())
    classifier.predict(unit(levels).astype(np.float64))
    np.testing.assert_array_equal(seen[1], unit(levels))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fresh_noise_is_within_eps_and_never_the_same(make, x, norm):
    classifier = make(config=CounterattackConfig(norm=norm).calibrated(SHA256))
    eps = classifier.config.eps
    first, second = (classifier.predict(np.repeat(x, 20, 0), with_delta=True).delta for _ in range(2))
    assert len({image.tobytes() for image in (*first, *second)}) == 320
    if norm == "linf":
        assert np.abs(first).max() <= eps * (1 + 1e-6)
        assert abs(first.mean()) < 5 * eps / np.sqrt(3 * first.size)
        counts, _ = np.histogram(first, 16, (-eps, eps))
        assert ((counts - first.size / 16) ** 2 / (first.size / 16)).sum() < 45
    else:
        lengths = np.linalg.norm(first.reshape(160, -1), axis=1)
        assert lengths.max() <= eps * (1 + 1e-6)
        assert lengths.mean() == pytest.approx(eps / 2, rel=0.15)
        assert lengths.std() == pytest.approx(eps / np.sqrt(12), rel=0.15)
        directions = first.reshape(160, -1) / lengths[:, None] * np.sqrt(first[0].size)
        assert abs((directions**4).mean() - 3) < 0.1


def test_a_content_key_of_its_own_for_each_classifier(make, x):
    one, other = (make(options={"noise_policy": "content"}) for _ in range(2))
    drift = one.predict(x).drift
    np.testing.assert_array_equal(one.predict(x[::-1]).drift[::-1], drift)
    assert not np.array_equal(other.predict(x).drift, drift)


def test_thresholds_of_the_caller(make, x):
    noise, classifier = draw(8), make()
    drift = classifier.predict(x, noise=noise).drift
    each = np.where(np.arange(8) % 3 == 0, drift * 1.001, drift).astype(np.float32)
    prediction = classifier.predict(x, noise=noise, tau_threshold=each)
    np.testing.assert_array_equal(prediction.countered, np.arange(8) % 3 == 0)  # strictly below
    assert not prediction.calibrated
    assert classifier.predict(x, noise=noise).calibrated
    assert classifier.predict(x, noise=noise, tau_threshold=1).countered.all()
    for bad, named in [
        (each[:4], r"a number or \[8\] numbers, got float32 \[4\]"),
        ("high", "a number or"),
        (True, "got bool"),
        (np.nan, "finite tau_threshold of at least 0, got nan"),
        (1e300, "finite tau_threshold"),
        (-0.1, "at least 0, got -0.1"),
    ]:
        with pytest.raises(InputError, match=named):
            classifier.predict(x, tau_threshold=bad)


@IN_EACH
@pytest.mark.parametrize("static", [False, True])
def test_a_serving_file_answers_and_refuses_what_it_does_not_take(make, x, runtime, static):
    classifier = make(profile="serving", static=static, batch=1 if static else None, runtime=runtime)
    first, second = (classifier.predict(x) for _ in range(2))
    assert len(set(np.concatenate([first.drift, second.drift]))) == 16
    assert (np.abs(first.drift - 0.5) < 0.1).all()
    refused = [({"tau_threshold": 0.1}, "tau_threshold"), ({"with_delta": True}, "with_delta")]
    if static:
        noise = draw(8, seed=3)
        check_against = expected(unit(x), noise)
        for options in ({"noise": noise}, {"seed": 3}):
            np.testing.assert_allclose(classifier.predict(x, **options).drift, check_against.drift, rtol=1e-5)
        make(profile="serving", static=True, batch=1, options={"noise_policy": "content"})
    else:
        refused += [({"seed": 1}, "seed"), ({"noise": draw(8)}, "noise")]
        with pytest.raises(InputError, match=r"noise_policy 'content' needs a file .*--profile lab"):
            make(profile="serving", options={"noise_policy": "content"})
    for options, name in refused:
        with pytest.raises(InputError, match=f"^{name} needs a file exported with --profile lab, .*onnx is"):
            classifier.predict(x, **options)


def raw_draw(path, x):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["drift"], {"pixels": x})[0]


def test_sessions_of_one_process_draw_alike_unless_each_is_seeded(tmp_path, x):
    path = write_onnx(tmp_path / "serving.onnx", make_metadata(profile="serving"))
    np.testing.assert_array_equal(raw_draw(path, unit(x)), raw_draw(path, unit(x)))
    for classifier in (OnnxClassifier, OpenVinoClassifier):
        drifts = [classifier(path).predict(x).drift for _ in range(4)]
        assert len(set(np.concatenate(drifts))) == 32


@WHERE_IT_SERVES
def test_restarts_draw_otherwise(tmp_path, runtime):
    path = write_onnx(tmp_path / "serving.onnx", make_metadata(profile="serving"))
    code = (
        "import sys, numpy as np; from clipfast.runtime import load_artifact;"
        "classifier = load_artifact(sys.argv[1], runtime=sys.argv[2]);"
        "print(classifier.predict(np.zeros((2, 3, 32, 32))).drift.tolist())"
    )
    said = {
        subprocess.run([sys.executable, "-c", code, path, runtime], check=True, capture_output=True).stdout
        for _ in range(3)
    }
    assert len(said) == 3


@WHERE_IT_SERVES
def test_many_threads_get_the_answers_of_one(make, x, runtime):
    classifier = make(batch=3, runtime=runtime, options={"threads": 1})
    alone = [classifier.predict(x, seed=seed).logits for seed in range(8)]
    classifier.reset_stats()
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda seed: classifier.predict(x, seed=seed).logits, range(8)))
    np.testing.assert_array_equal(together, alone)
    assert classifier.stats().images == 64


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda x: x[0], r"got \[3, 32, 32\]: one image needs a batch axis"),
        (lambda x: x[0, 0], r"expected pixels \[N, 3, 32, 32\], got \[32, 32\]"),
        (lambda x: x.transpose(0, 2, 3, 1), "channels come first"),
        (lambda x: x[:, :1], r"got \[8, 1, 32, 32\]"),
        (lambda x: x[:, :, :16], r"got \[8, 3, 16, 32\]: clipfast.preprocess resizes"),
        (lambda x: x.astype(np.int32), "expected uint8 or float pixels, got int32"),
        (lambda x: torch.from_numpy(x), "expected a numpy array of pixels, got Tensor"),
        (lambda x: x.astype(np.float32), r"looks like a float image in \[0, 255\]"),
        (lambda x: (unit(x) - 0.45) / 0.27, "already normalised by mean and std"),
        (lambda x: unit(x) * 1.001, "slightly out of range: clamp it"),
        (lambda x: np.where(np.arange(8)[:, None, None, None] == 5, np.nan, unit(x)), "in image 5"),
        (lambda x: unit(x) + np.inf, "NaN or infinity in image 0"),
    ],
)
def test_bad_pixels_are_named(make, x, change, named):
    x[0, 0, 0, 0] = 255
    classifier = make()
    with pytest.raises(InputError, match=named):
        classifier.predict(change(x))
    assert classifier.stats().images == 0


def test_a_file_of_bytes_refuses_floats(make, x):
    with pytest.raises(InputError, match=r"classifier\.onnx takes uint8 pixels, got float64"):
        make(pixels="uint8").predict(x / 255)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"noise": draw(4)}, r"shape \[8, 3, 32, 32\], got \[4, 3, 32, 32\]"),
        ({"noise": draw(8) * 2}, "within eps = 0.0156863"),
        ({"noise": draw(8) * np.float32(np.nan)}, "got nan"),
        ({"noise": draw(8).astype(np.int32)}, "expected noise as a float array, got int32"),
        ({"noise": torch.zeros(8, 3, 32, 32)}, "got Tensor"),
        ({"noise": draw(8), "seed": 1}, "got both"),
        ({"seed": -1}, "seed must be an integer from 0"),
        ({"seed": True}, "seed must be an integer from 0"),
        ({"seed": 1, "first_image": 2**32 - 7}, "first_image must be an integer from 0"),
    ],
)
def test_bad_noise_is_named(make, x, options, named):
    with pytest.raises(InputError, match=named):
        make().predict(x, **options)


def test_l2_noise_is_measured_in_l2(make, x):
    classifier = make(config=CounterattackConfig(norm="l2", eps=1.0).calibrated(SHA256))
    noise = np.full((8, 3, 32, 32), 1 / np.sqrt(3072), np.float32)
    classifier.predict(x, noise=noise)
    with pytest.raises(InputError, match=r"within eps = 1 \(l2\), got 1.01"):
        classifier.predict(x, noise=noise * np.float32(1.01))


def test_answers_that_are_not_finite_are_no_answers(make, x):
    broken = WEIGHTS.copy()
    broken[0, 2] = np.inf  # times a red of nothing: NaN, of one class alone
    x[[2, 5], 0] = 0
    classifier = make(weights=broken)
    with pytest.raises(InputError, match=r"expected a finite drift and logits, got drift \[0\.\d+, .*\] for"):
        classifier.predict(x)
    assert classifier.stats().images == 0


def test_options_reach_openvino(make, tmp_path):
    options = {"low_memory": True, "threads": 1, "cache": tmp_path / "cache"}
    compiled = make(runtime="openvino", options=options)._session._compiled
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert list((tmp_path / "cache").glob("*.blob"))
    with pytest.raises(InputError, match=r"precision 'bf16' is refused: .* on 98 % .* 99 % are asked for"):
        make(runtime="openvino", options={"precision": "bf16"})


def test_what_draws_its_own_noise_is_compiled_anew_and_not_kept(make, x, tmp_path):
    options = {"cache": tmp_path / "cache"}
    first, second = (make(profile="serving", runtime="openvino", options=options) for _ in range(2))
    assert (first.predict(x).drift != second.predict(x).drift).all()
    assert not list(tmp_path.glob("cache/*"))


def test_options_reach_onnxruntime(make):
    frugal = make(options={"low_memory": True, "threads": 1})._session._session.get_session_options()
    assert frugal.intra_op_num_threads == 1
    assert not frugal.enable_cpu_mem_arena
    assert not frugal.enable_mem_pattern
    assert frugal.get_session_config_entry("session.disable_prepacking") == "1"
    plain = make()._session._session.get_session_options()
    assert plain.enable_cpu_mem_arena
    assert plain.enable_mem_pattern


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"threads": 0}, "threads must be an integer from 1"),
        ({"providers": ["GPU"]}, r"unknown providers \['GPU'\]; expected cpu, cuda, .*CUDAExecutionProvider"),
        ({"providers": "CPUExecutionProvider"}, "sequence of providers, got the string"),
        ({"noise_policy": "never"}, "noise_policy must be one of"),
        ({"noise_key": b"short"}, "16 to 64 bytes, got 5"),
    ],
)
def test_bad_options_are_named(make, options, named):
    with pytest.raises(InputError, match=named):
        make(options=options)


def test_the_provider_is_logged_and_a_missing_one_is_an_error(make, caplog):
    for name in ("CPUExecutionProvider", "cpu", ("CPU", {})):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            classifier = make(options={"providers": [name]})
        assert "classifier.onnx runs on CPUExecutionProvider" in caplog.text
        assert [*classifier.stats().placed] == ["CPUExecutionProvider"]
    for providers in (["coreml"], [("WebGpuExecutionProvider", {}), "cpu"], ["tensorrt", "cuda", "cpu"]):
        with pytest.raises(
            ArtifactError, match=r"classifier\.onnx: .*ExecutionProvider was asked for, and this build of"
        ):
            make(options={"providers": providers})


class Build:
    """A build of onnxruntime that has two providers, and starts one of them or both."""

    def get_available_providers(self):
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def get_all_providers(self):
        return ["TensorrtExecutionProvider", *self.get_available_providers()]


def test_providers_compute_in_float32_unless_asked_otherwise(tmp_path):
    cuda = ("CUDAExecutionProvider", {"use_tf32": "0"})
    assert usable(tmp_path, None, Build()) == [cuda, "CPUExecutionProvider"]
    assert usable(tmp_path, ["cuda"], Build()) == [cuda]
    low = ("cuda", {"use_tf32": "1", "device_id": "1"})
    assert usable(tmp_path, [low, "cpu"], Build()) == [(cuda[0], low[1]), "CPUExecutionProvider"]


def test_a_provider_that_is_not_used_is_an_error(tmp_path):
    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    check_used(tmp_path, None, [cpu], {cpu: 3})
    check_used(tmp_path, ["cuda", "cpu"], [cuda, cpu], {cuda: 3})
    with pytest.raises(ArtifactError, match=f"{cuda} was asked for and did not start .* active are {cpu}"):
        check_used(tmp_path, ["cuda", "cpu"], [cpu], {cpu: 3})
    with pytest.raises(ArtifactError, match=f"{cuda} was asked for, and no part of the file runs on it"):
        check_used(tmp_path, ["cuda"], [cuda, cpu], {cpu: 3})


@pytest.mark.parametrize(
    ("runtime", "package", "extra"),
    [
        ("onnxruntime", "onnxruntime", "runtime"),
        ("openvino", "openvino", "openvino"),
        ("reference", "onnx", "torch"),
    ],
)
def test_without_a_runtime_its_extra_is_named(monkeypatch, tmp_path, runtime, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"needs {package}, .* pip install 'clipfast\[{extra}\]'"):
        load_artifact(tmp_path / "any.onnx", runtime=runtime)


def test_the_runtime_is_the_first_that_is_there(monkeypatch, tmp_path):
    path = write_onnx(tmp_path / "a.onnx", make_metadata())
    assert [*load_artifact(path).stats().placed] == ["CPUExecutionProvider"]
    assert FORMATS["onnx"].installed_runtimes() == ("onnxruntime", "openvino", "reference")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name)
    )
    assert [*load_artifact(path).stats().placed] == ["CPU"]
    assert FORMATS["onnx"].installed_runtimes() == ("openvino", "reference")
    with pytest.raises(InputError, match=r"\.onnx run in onnxruntime, openvino, reference, got .* 'torch'"):
        load_artifact(path, runtime="torch")


@pytest.fixture
def bad(tmp_path):
    """A function that writes a bad file and the match of its error."""
    data = make_onnx(make_metadata()).SerializeToString()
    foreign = make_onnx(make_metadata(), said="").SerializeToString()
    files = {
        "empty": (b"", "got zero bytes"),
        "truncated": (data[: len(data) // 2], "expected an ONNX file; it is truncated"),
        "text": (b"hello world", "expected an ONNX file; it is truncated, or of another format"),
        "foreign": (foreign, "carries no clipfast metadata"),
    }

    def write(name):
        content, named = files[name]
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        return path, f"{name}\\.onnx: .*{named}"

    return write


@pytest.mark.parametrize("name", ["empty", "truncated", "text", "foreign"])
def test_bad_onnx_files_are_named(bad, name):
    path, named = bad(name)
    with pytest.raises(ArtifactError, match=named):
        OnnxClassifier(path)
    for runtime in ("openvino", "reference"):
        with pytest.raises(ArtifactError, match=named):
            load_artifact(path, runtime=runtime)


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"pixels": "uint8"}, r"metadata has uint8 \[N, 3, 32, 32\] as input 'pixels', its graph float32"),
        ({"profile": "serving"}, r"metadata has nothing as input 'noise', its graph float32"),
        ({"batch": 2}, r"float32 \[2, 3, 32, 32\] as input 'noise', its graph float32 \[N, 3, 32, 32\]"),
        (
            {"classnames": ("red", "green")},
            r"float32 \[N, 2\] as output 'logits', its graph float32 \[N, 4\]",
        ),
    ],
)
def test_a_graph_that_is_not_its_metadatas_is_named(tmp_path, said, named):
    path = write_onnx(tmp_path / "a.onnx", make_metadata(), said=make_metadata(**said).to_json())
    graph = write_onnx(tmp_path / "b.onnx", make_metadata(**said), said=make_metadata().to_json())
    for classifier in (OnnxClassifier, OpenVinoClassifier):
        with pytest.raises(ArtifactError, match=f"a\\.onnx: its .*{named}"):
            classifier(path)
        with pytest.raises(ArtifactError, match=r"b\.onnx: its metadata has "):
            classifier(graph)


def test_the_order_of_a_graphs_ports_does_not_matter(tmp_path, x):
    model = make_onnx(make_metadata())
    for ports in (model.graph.input, model.graph.output):
        ports.reverse()
    onnx.save(model, tmp_path / "a.onnx")
    noise = draw(8)
    for runtime in (*SERVING, "reference"):
        classifier = load_artifact(tmp_path / "a.onnx", runtime=runtime)
        prediction = classifier.predict(x, noise=noise, tau_threshold=split(noise))
        check(prediction, expected(unit(x), noise, split(noise)))


def test_metadata_that_cannot_be_read_name_the_file(tmp_path):
    newer = make_metadata().to_json().replace(f'"schema": {SCHEMA}', f'"schema": {SCHEMA + 1}')
    for said, named in ((newer, "a newer clipfast is needed"), ("{", "its metadata is no JSON")):
        path = write_onnx(tmp_path / "a.onnx", make_metadata(), said=said)
        with pytest.raises(ArtifactError, match=f"a\\.onnx: .*{named}") as caught:
            OnnxClassifier(path)
        assert caught.value.__cause__ is not None


def test_external_data_is_read_and_missed(tmp_path, x):
    path = tmp_path / "a.onnx"
    onnx.save(
        make_onnx(make_metadata()), path, save_as_external_data=True, location="a.data", size_threshold=70
    )
    noise = draw(8)
    check(
        OnnxClassifier(path).predict(x, noise=noise, tau_threshold=split(noise)),
        expected(unit(x), noise, split(noise)),
    )
    (tmp_path / "a.data").unlink()
    with pytest.raises(ArtifactError, match=r"cannot read .*a\.data: No such file"):
        OnnxClassifier(path)


def test_a_graph_that_fails_or_lies_when_it_runs_is_named(make, x):
    classifier = make()
    session = classifier._session
    run = session._run

    def fail(*_):
        raise RuntimeError("first line\nsecond line")

    session._run = fail
    with pytest.raises(ArtifactError, match=r"classifier\.onnx: running it failed: first line second line"):
        classifier.predict(x)
    for change in (
        lambda found: {name: found[name] for name in ("logits", "drift", "countered")},
        lambda found: {**found, "drift": found["drift"].astype(np.float64)},
        lambda found: {**found, "drift": found["drift"][:, None]},
    ):
        session._run = lambda inputs, outputs, change=change: change(run(inputs, outputs))
        with pytest.raises(
            ArtifactError, match=r"expected the outputs \{'logits': \('float32', \[8, 4\]\), .*, got "
        ):
            classifier.predict(x)
    assert classifier.stats().images == 0


def test_files_that_run_code_want_trust_before_they_are_opened(tmp_path, torchscript):
    for path in (tmp_path / "gone.ts.pt", tmp_path / "gone.pt2", torchscript):
        with pytest.raises(ArtifactError, match=r"runs its own code when it is loaded; pass trust=True"):
            load_artifact(path)
    with pytest.raises(ArtifactError, match=r"cannot read .*gone.ts.pt: No such file"):
        load_artifact(tmp_path / "gone.ts.pt", trust=True)


@pytest.mark.parametrize("suffix", [".ts.pt", ".pt2"])
def test_bad_files_of_torch_are_named(tmp_path, torchscript, suffix):
    path = tmp_path / f"bad{suffix}"
    for content, named in (
        (b"", "expected an exported file, got zero bytes"),
        (b"hello world", "expected a ZIP archive"),
        (torchscript.read_bytes()[:900], "expected a ZIP archive; it is truncated"),
    ):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=f"bad{suffix}: {named}"):
            load_artifact(path, trust=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bad/hello.txt", "world")
    with pytest.raises(ArtifactError, match=f"bad{suffix}: torch cannot load it: ") as caught:
        load_artifact(path, trust=True)
    assert "\n" not in str(caught.value)


def test_metadata_of_torch_files_are_checked(tmp_path, aotinductor, x):
    path = write_torchscript(tmp_path / "a.ts.pt", "")
    with pytest.raises(ArtifactError, match=r"a\.ts\.pt: carries no clipfast metadata"):
        load_artifact(path, trust=True)
    path = write_torchscript(tmp_path / "a.ts.pt", '{"schema": 7}')
    with pytest.raises(ArtifactError, match=r"a\.ts\.pt: its metadata has schema 7"):
        load_artifact(path, trust=True)
    serving = write_torchscript(tmp_path / "a.ts.pt", make_metadata(profile="serving").to_json())
    with pytest.raises(ArtifactError, match=r"a\.ts\.pt: running it failed: .*noise"):
        load_artifact(serving, trust=True).predict(x)
    with pytest.raises(InputError, match=r"a\.pt2 was compiled for cpu, got device 'cuda'"):
        load_artifact(aotinductor, trust=True, device="cuda")


def test_load_artifact_goes_by_the_name(tmp_path, torchscript):
    path = write_onnx(tmp_path / "a.onnx", make_metadata())
    assert "CPUExecutionProvider" in load_artifact(str(path), threads=1).stats().placed
    assert load_artifact(torchscript, trust=True).path == torchscript
    for name in ("a.pt", "a.safetensors", "onnx"):
        with pytest.raises(ArtifactError, match=f"{name}: expected a file named .onnx, .ts.pt or .pt2"):
            load_artifact(tmp_path / name)
    with pytest.raises(ArtifactError, match=r"cannot read .*gone\.onnx: No such file"):
        load_artifact(tmp_path / "gone.onnx")


def test_no_warning_where_the_threshold_is_calibrated(make, x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make().predict(x).calibrated


@pytest.mark.parametrize("runtime", SERVING)
@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))], ids=["copy", "pickle"]
)
def test_a_copy_is_loaded_from_the_same_file(make, x, runtime, how):
    classifier = make(runtime=runtime)
    classifier.predict(x)
    twin = how(classifier)
    assert twin._session is not classifier._session
    assert twin.stats().images == 0
    np.testing.assert_array_equal(twin.predict(x, seed=3).logits, classifier.predict(x, seed=3).logits)
    make(runtime=runtime, classnames=("cyan", "green", "blue", "grey"))  # in its place
    assert how(classifier).classnames[0] == "cyan"


def test_a_copy_of_a_pinned_file_is_the_same_file(make, x):
    path = make().path
    classifier = OnnxClassifier(path, sha256=sha256_of(path))
    pickle.loads(pickle.dumps(classifier)).predict(x)
    make(classnames=("cyan", "green", "blue", "grey"))
    with pytest.raises(ArtifactError, match="expected the SHA-256"):
        copy.deepcopy(classifier)


FORKED = """
import os, sys
import numpy as np
from clipfast.errors import ArtifactError
from clipfast.runtime import OnnxClassifier
classifier = OnnxClassifier(sys.argv[1], threads=1)
pixels = np.full((4, 3, 32, 32), 0.5, np.float32)
classifier.predict(pixels)
if (child := os.fork()) == 0:
    try:
        classifier.predict(pixels)
    except ArtifactError as error:
        os._exit(7 if "forked" in str(error) else 8)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize(("profile", "code"), [("serving", 7), ("lab", 0)])
def test_who_draws_its_own_noise_does_not_answer_in_a_forked_process(tmp_path, profile, code):
    """Its generator's state is the parent's, and every other child's."""
    path = write_onnx(tmp_path / "a.onnx", make_metadata(profile=profile))
    done = subprocess.run([sys.executable, "-c", FORKED, path], capture_output=True, text=True)
    assert done.returncode == code, done.stderr


def test_each_image_of_a_batch_has_a_key_of_its_own():
    keys = fresh_keys(1000)
    assert len(set(keys.seeds.tolist())) == 1000
    assert keys.seeds.dtype == np.uint64
    assert not keys.images.any()
