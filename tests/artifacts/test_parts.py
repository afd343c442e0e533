"""What is looked at in an exported file before a runtime opens it, and that this is what runs."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hand_made import make_metadata, make_onnx, write_onnx
from onnx import TensorProto, helper

from clipfast import ArtifactError
from clipfast.artifacts.onnx_file import read_onnx
from clipfast.artifacts.parts import parts_of
from clipfast.runtime import OnnxClassifier, load_artifact, sha256_of

RUNTIMES = ("onnxruntime", "openvino", "reference")


def save_beside(folder: Path, name: str = "a.onnx", location: str = "a.data") -> Path:
    """A file whose weights lie in another one."""
    path = folder / name
    onnx.save(
        make_onnx(make_metadata()), path, save_as_external_data=True, location=location, size_threshold=70
    )
    return path


def point_to(path: Path, location: str) -> None:
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("where", ["absolute", "parent", "linked", "linked folder", "empty", "folder"])
def test_weights_outside_of_the_folder_are_refused(tmp_path, runtime, where):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in (home, elsewhere):
        folder.mkdir()
    path = save_beside(home)
    (home / "a.data").rename(elsewhere / "a.data")
    locations = {
        "absolute": str(elsewhere / "a.data"),
        "parent": "../elsewhere/a.data",
        "linked": "link.data",
        "linked folder": "there/a.data",
        "empty": "",
        "folder": ".",
    }
    (home / "link.data").symlink_to(elsewhere / "a.data")
    (home / "there").symlink_to(elsewhere)
    point_to(path, locations[where])
    with pytest.raises(
        ArtifactError, match=r"a\.onnx: expected its weights in a file of its folder that is no"
    ):
        load_artifact(path, runtime=runtime)


def test_weights_in_a_branch_and_in_an_attribute_are_found(tmp_path):
    """Wherever a tensor may be: of a graph within a graph, of a constant, of a function."""

    def outside(location: str) -> TensorProto:
        tensor = TensorProto(name=location, data_type=TensorProto.FLOAT, dims=[1])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="offset", value="0")
        tensor.external_data.add(key="location", value=location)
        return tensor

    branch = helper.make_graph([], "branch", [], [], initializer=[outside("branch")])
    nodes = [
        helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch),
        helper.make_node("Constant", [], ["c"], value=outside("constant")),
    ]
    graph = helper.make_graph(nodes, "graph", [], [], initializer=[outside("graph")])
    function = helper.make_function(
        "own", "f", [], ["y"], [helper.make_node("Constant", [], ["y"], value=outside("function"))], []
    )
    model = helper.make_model(graph, functions=[function])
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    assert read_onnx(tmp_path / "a.onnx").locations == {"branch", "constant", "graph", "function"}


def test_a_renamed_file_keeps_its_weights(tmp_path):
    path = save_beside(tmp_path, location="old.data")
    renamed = path.rename(tmp_path / "new.onnx")
    assert parts_of(renamed) == [renamed, tmp_path / "old.data"]
    whole = renamed.read_bytes() + (tmp_path / "old.data").read_bytes()
    assert sha256_of(renamed) == hashlib.sha256(whole).hexdigest()
    (tmp_path / "old.data").unlink()
    with pytest.raises(ArtifactError, match=r"cannot read .*old\.data: No such file"):
        OnnxClassifier(renamed)


def test_a_seed_in_the_file_is_refused(tmp_path):
    """Each session would draw the same noise, whatever it is seeded with."""
    model = make_onnx(make_metadata(profile="serving"))
    onnx.save(model, tmp_path / "a.onnx")
    load_artifact(tmp_path / "a.onnx")
    (uniform,) = [node for node in model.graph.node if node.op_type == "RandomUniformLike"]
    uniform.attribute.append(helper.make_attribute("seed", 1.0))
    onnx.save(model, tmp_path / "a.onnx")
    for runtime in RUNTIMES:
        with pytest.raises(
            ArtifactError, match=r"a\.onnx: it draws its noise from a seed that is in the file"
        ):
            load_artifact(tmp_path / "a.onnx", runtime=runtime)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_another_digest_is_refused(tmp_path, runtime):
    path = save_beside(tmp_path)
    digest = sha256_of(path)
    load_artifact(path, runtime=runtime, sha256=f" {digest.upper()}\n")
    data = tmp_path / "a.data"
    data.write_bytes(bytes(data.stat().st_size))
    with pytest.raises(ArtifactError, match=rf"a\.onnx: expected the SHA-256 {digest}, got "):
        load_artifact(path, runtime=runtime, sha256=digest)


def test_what_was_digested_is_what_runs(tmp_path, monkeypatch):
    """Whoever replaces the files in between changes nothing; and nothing is left of the copy."""
    path, other = save_beside(tmp_path), tmp_path / "other"
    other.mkdir()
    onnx.save(
        make_onnx(make_metadata(), weights=np.ones((3, 4), np.float32)),
        other / "a.onnx",
        save_as_external_data=True,
        location="a.data",
        size_threshold=70,
    )
    digest, seen = sha256_of(path), []
    pixels = np.full((1, 3, 32, 32), 0.5, np.float32)
    expected = OnnxClassifier(path).predict(pixels, seed=0)
    session = onnxruntime.InferenceSession

    def replaced(file, *args, **options):
        for part in other.iterdir():
            shutil.copyfile(part, tmp_path / part.name)
        seen.append(Path(file))
        return session(file, *args, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", replaced)
    found = OnnxClassifier(path, sha256=digest).predict(pixels, seed=0)
    np.testing.assert_array_equal(found.logits, expected.logits)
    assert not seen[0].exists()
    assert not np.array_equal(OnnxClassifier(path).predict(pixels, seed=0).logits, expected.logits)


def varint(number: int) -> bytes:
    """As a length is written in a protobuf."""
    more = b""
    while number > 0x7F:
        more += bytes([number & 0x7F | 0x80])
        number >>= 7
    return more + bytes([number])


def garbled(number: int) -> bytes:
    """Deep messages, long numbers, lengths beyond the end, wire types that there are not."""
    whole = make_onnx(make_metadata()).SerializeToString()
    graph, node, attribute, branch = b"\x3a", b"\x0a", b"\x2a", b"\x32"
    deep = b""
    for field in [branch, attribute, node] * 500 + [graph]:
        deep = field + varint(len(deep)) + deep
    return [
        whole[:-1],
        b"\x80" * 20,
        graph + b"\xff\xff\xff\xff\x7f",
        b"\x0b",
        graph + b"\x03\x0d\x01",
        deep,
    ][number]


@pytest.mark.parametrize("number", range(6))
def test_garbled_files_are_refused(tmp_path, number):
    (tmp_path / "a.onnx").write_bytes(garbled(number))
    for runtime in RUNTIMES:
        with pytest.raises(
            ArtifactError, match=r"a\.onnx: expected an ONNX file; it is truncated, or of another"
        ):
            load_artifact(tmp_path / "a.onnx", runtime=runtime)


def test_a_file_of_another_owner_is_told(tmp_path):
    path = write_onnx(tmp_path / "a.onnx", make_metadata())
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root reads everything")
    with pytest.raises(ArtifactError, match=r"cannot read .*a\.onnx: Permission denied"):
        load_artifact(path)
