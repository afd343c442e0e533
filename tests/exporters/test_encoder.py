"""Exports of the image tower alone: what they give, that they agree, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from conftest import make_tiny_clip, pixels
from hand_made import make_metadata, write_onnx
from onnx import numpy_helper

from clipfast import ArtifactError, InputError, VerificationError
from clipfast.artifacts.encoder_metadata import EncoderMetadata, is_encoder
from clipfast.artifacts.formats import FORMATS
from clipfast.exporters import export_encoder
from clipfast.exporters.encoder_graph import EncoderGraph
from clipfast.models.tower import ImageTower
from clipfast.runtime import load_artifact, load_encoder
from clipfast.verification.embeddings import compare_embeddings

RUNTIMES = tuple(runtime.name for runtime in FORMATS["onnx"].runtimes)


@pytest.fixture(scope="module")
def model():
    return make_tiny_clip(3)


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    return export_encoder(model, tmp_path_factory.mktemp("encoder") / "tower.onnx").path


def wanted(model, x):
    with torch.no_grad():
        return ImageTower(model)(x.float() / 255).numpy()


def apart(found, expected):
    return (np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)).max()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_its_embeddings_are_the_models(model, file, runtime):
    x = pixels(7, seed=4)
    encoder = load_encoder(file, runtime=runtime)
    found = encoder.encode_image(x.numpy())
    assert (found.dtype, found.shape) == (np.float32, (7, 24))
    assert apart(found, wanted(model, x)) < 1e-5
    np.testing.assert_allclose(encoder.encode_image(x.numpy() / np.float32(255)), found, rtol=1e-6)
    unit = encoder.encode_image(x.numpy(), normalize=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(unit * np.linalg.norm(found, axis=1, keepdims=True), found, rtol=1e-5)
    assert encoder.encode_image(x.numpy()[:0]).shape == (0, 24)
    assert "tower.onnx" in repr(encoder)
    assert "embeddings of 24" in repr(encoder)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".onnx", {"batch": 3, "pixels": "uint8"}),
        (".onnx", {"precision": "fp16"}),
        (".ts.pt", {"format": "torchscript", "pixels": "uint8"}),
        pytest.param(".pt2", {"format": "aotinductor", "batch": 1}, marks=pytest.mark.slow),
    ],
)
def test_every_format_and_kind_is_compared_with_the_model(model, tmp_path, suffix, options):
    made = export_encoder(model, tmp_path / f"tower{suffix}", **options)
    assert set(made.verifications) == set(FORMATS[options.get("format", "onnx")].installed_runtimes())
    assert all(verification.agrees for verification in made.verifications.values())
    encoder = load_encoder(made.path, trust=True)
    assert encoder.metadata == made.metadata
    x = pixels(7, seed=4)
    limit = 5e-3 if options.get("precision") == "fp16" else 1e-5
    assert apart(encoder.encode_image(x.numpy()), wanted(model, x)) < limit
    if options.get("pixels") == "uint8":
        with pytest.raises(InputError, match="takes uint8 pixels, got float32"):
            encoder.encode_image(x.numpy() / np.float32(255))


def test_the_file_holds_the_tower_alone(model, file):
    graph = onnx.load(file).graph
    assert [port.name for port in graph.input] == ["pixels"]
    assert [port.name for port in graph.output] == ["embedding"]
    numbers = sum(numpy_helper.to_array(tensor).size for tensor in graph.initializer)
    held = sum(weight.numel() for weight in model.visual.parameters())
    assert 0.98 * held < numbers < 1.02 * held  # weights that are alike are held once
    encoder = load_encoder(file)
    assert encoder.metadata.license == "that of the model's weights"
    assert encoder.metadata.model_name is None
    assert encoder.preprocess.size == encoder.image_size == (32, 32)


def test_a_file_of_other_weights_or_wrong_answers_is_found(model, file, tmp_path):
    session = FORMATS["onnx"].load(file)
    with pytest.raises(ArtifactError, match="exported from another model: its metadata has weights_sha256"):
        compare_embeddings(session, tower=ImageTower(make_tiny_clip(4)))
    changed = onnx.load(file)
    weight = next(tensor for tensor in changed.graph.initializer if sorted(tensor.dims) == [24, 64])
    weight.CopyFrom(numpy_helper.from_array(1.001 * numpy_helper.to_array(weight), weight.name))
    onnx.save(changed, tmp_path / "changed.onnx")
    session = FORMATS["onnx"].load(tmp_path / "changed.onnx")
    found = compare_embeddings(session, tower=ImageTower(model))
    assert "embedding, in batches of 3 0.001, allowed at most 1e-05" in found.failures
    images = pixels(2).numpy()
    assert [row.n for row in compare_embeddings(session, tower=ImageTower(model), images=images).rows] == [
        2
    ] * 3


def test_an_export_that_disagrees_leaves_nothing(model, tmp_path, monkeypatch):
    forward = EncoderGraph.forward
    monkeypatch.setattr(EncoderGraph, "forward", lambda self, pixels: (2 * forward(self, pixels)[0],))
    with pytest.raises(VerificationError, match=r"tower\.onnx in onnxruntime disagrees.*embedding"):
        export_encoder(model, tmp_path / "tower.onnx")
    assert list(tmp_path.iterdir()) == []


def test_each_kind_of_file_says_what_it_is_and_what_it_is_not(file, tmp_path):
    with pytest.raises(ArtifactError, match=r"tower\.onnx: it holds an image encoder, and no defended"):
        load_artifact(file)
    classifier = write_onnx(tmp_path / "classifier.onnx", make_metadata())
    with pytest.raises(ArtifactError, match=r"classifier\.onnx: it holds no image encoder"):
        load_encoder(classifier)
    assert is_encoder(load_encoder(file).metadata.to_json())
    assert not is_encoder(make_metadata().to_json())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"schema": 2}, "schema 2, clipfast .* reads up to 1"),
        ({"width": 0}, "expected a positive integer as metadata field 'width', got 0"),
        ({"classnames": ["a"]}, "unknown metadata field 'classnames'"),
        ({"pixels": "int8"}, "expected 'float32' or 'uint8' as metadata field 'pixels'"),
        ({"preprocess": {}}, "metadata field 'preprocess.color_order' is missing"),
    ],
)
def test_metadata_that_cannot_be_read_are_named(file, change, named):
    text = load_encoder(file).metadata.to_json()
    assert EncoderMetadata.from_json(text) == load_encoder(file).metadata
    with pytest.raises(ArtifactError, match=named):
        EncoderMetadata.from_json(json.dumps({**json.loads(text), **change}))


def test_a_graph_that_is_not_its_metadatas_is_named(file, tmp_path):
    model = onnx.load(file)
    (entry,) = model.metadata_props
    entry.value = json.dumps({**json.loads(entry.value), "width": 25})
    onnx.save(model, tmp_path / "wider.onnx")
    with pytest.raises(ArtifactError, match=r"has float32 \[N, 25\] as output 'embedding', its graph"):
        load_encoder(tmp_path / "wider.onnx")


def test_embeddings_that_are_none_are_no_answer(tmp_path):
    broken = make_tiny_clip(3)
    with torch.no_grad():
        broken.visual.proj.fill_(torch.nan)
    made = export_encoder(broken, tmp_path / "broken.onnx", verify=False)
    with pytest.raises(InputError, match=r"no usable embedding for the images \[0, 1\]"):
        load_encoder(made.path).encode_image(pixels(2).numpy())


def test_the_command_line_exports_and_verifies_it(run, tmp_path):
    out = tmp_path / "tower.onnx"
    code, printed, err = run("export", "-o", out, "--encoder-only", "--pixels", "uint8")
    assert code == 0, err
    assert f"{out}: {out.stat().st_size / 1e6:.1f} MB, an image encoder" in printed
    assert "inputs: pixels uint8 [N, 3, 96, 96]" in printed
    assert "outputs: embedding float32 [N, 192]" in printed
    assert load_encoder(out).metadata.model_name == "drawn"
    code, printed, err = run("verify", out)
    assert code == 0, err
    assert printed.count("embedding, in batches of 32") == len(RUNTIMES)
    for given in (["--classnames", "a,b"], ["--static"], ["--preset", "published"], ["--profile", "lab"]):
        code, _, err = run("export", "-o", tmp_path / "b.onnx", "--encoder-only", *given)
        assert code == 2
        assert f"--encoder-only has no defence and no classes: got {given[0]} too" in " ".join(err.split())
