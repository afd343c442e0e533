"""What is written, what is refused, and what is left when writing fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from hand_made import CONFIG as SETTINGS
from hand_made import make_metadata, make_onnx, write_onnx
from model_config import Serving
from repository import CONFIG, write_model
from scripts import without
from tritonclient.grpc import model_config_pb2

from clipfast import ArtifactError, InputError, UncalibratedWarning
from clipfast.artifacts.metadata import Metadata
from clipfast.preprocess import Preprocess
from clipfast.runtime import OnnxClassifier

schema: Any = model_config_pb2
TYPES: dict[int, int] = {
    onnx.TensorProto.FLOAT: schema.TYPE_FP32,
    onnx.TensorProto.UINT8: schema.TYPE_UINT8,
    onnx.TensorProto.BOOL: schema.TYPE_BOOL,
}


def read(model: Path):
    """A config.pbtxt as the server's own schema has it."""
    return text_format.Parse((model / CONFIG).read_text(), schema.ModelConfig())


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below, with what is in it."""
    return {str(p.relative_to(folder)): None if p.is_dir() else p.read_bytes() for p in folder.rglob("*")}


@pytest.fixture
def make(tmp_path):
    def call(name="made.onnx", *, weights=None, **changes):
        options = {} if weights is None else {"weights": weights}
        return write_onnx(tmp_path / name, make_metadata(**{"profile": "serving", **changes}), **options)

    return call


@pytest.fixture
def written(tmp_path, tiny) -> Path:
    """A repository, in a folder of its own, with version 1 of the model `clipfast`."""
    (tmp_path / "place").mkdir()
    write_model(tiny, tmp_path / "place/models")
    return tmp_path / "place/models"


@pytest.mark.parametrize("name", ["serving.onnx", "tiny"])
def test_the_config_has_the_graphs_own_inputs_and_outputs(model_repository, artifact, tiny, name):
    model = model_repository / ("tiny" if name == "tiny" else "clipfast")
    file = tiny if name == "tiny" else artifact(name)
    config, graph = read(model), onnx.load(file).graph
    assert (model / "1/model.onnx").read_bytes() == file.read_bytes()
    assert (config.name, config.backend) == (model.name, "onnxruntime")
    for said, values in ((config.input, graph.input), (config.output, graph.output)):
        assert [tensor.name for tensor in said] == [value.name for value in values]
        for tensor, value in zip(said, values, strict=True):
            kind = value.type.tensor_type
            batch, *sizes = kind.shape.dim
            assert batch.dim_param
            assert tensor.data_type == TYPES[kind.elem_type]
            graphs = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
            assert list(graphs) == [size.dim_value for size in sizes]
            assert np.prod(tensor.dims) == np.prod(graphs)
            assert len(tensor.dims) > 0, "the server knows no tensor without a dimension"


def test_labels_are_the_classes_in_the_order_of_the_logits(model_repository, artifact):
    model = model_repository / "clipfast"
    names = (model / "labels.txt").read_text().split("\n")
    assert names.pop() == ""
    assert names == list(OnnxClassifier(artifact("serving.onnx")).classnames)
    files = {output.name: output.label_filename for output in read(model).output}
    assert files == {"logits": "labels.txt", "undefended_logits": "labels.txt", "drift": "", "countered": ""}
    dims = {output.name: list(output.dims) for output in read(model).output}
    assert dims["logits"] == dims["undefended_logits"] == [len(names)]


@pytest.mark.parametrize("pixels", ["uint8", "float32"])
def test_warm_up_is_of_pictures_that_the_model_takes(tmp_path, make, pixels):
    write_model(make(pixels=pixels), tmp_path / "models", serving=Serving(max_batch_size=6))
    config = read(tmp_path / "models/clipfast")
    assert [request.batch_size for request in config.model_warmup] == [1, 6, 1, 6]
    assert len({request.name for request in config.model_warmup}) == 4
    pictures = {}
    for request in config.model_warmup:
        (name, tensor), *rest = request.inputs.items()
        assert not rest
        assert (name, tensor.data_type, list(tensor.dims)) == (
            config.input[0].name,
            config.input[0].data_type,
            list(config.input[0].dims),
        )
        data = (tmp_path / "models/clipfast/warmup" / tensor.input_data_file).read_bytes()
        pictures[tensor.input_data_file] = np.frombuffer(data, pixels).reshape(3, 32, 32)
    assert len(pictures) == 2
    both = np.stack(list(pictures.values()))
    assert both.min() >= 0
    full = 1 if pixels == "float32" else 255
    assert 0.9 * full < both.max() <= full


def test_warm_up_goes_both_ways_through_the_gate(model_repository, artifact):
    classifier = OnnxClassifier(artifact("serving.onnx"))
    drift = {}
    for file in (model_repository / "clipfast/warmup").iterdir():
        picture = np.frombuffer(file.read_bytes(), np.uint8).reshape(1, 3, 96, 96)
        drift[file.name] = classifier.predict(picture.repeat(32, 0)).drift
    assert drift["least_drift"].mean() < classifier.config.tau_threshold / 2
    assert drift["most_drift"].mean() > classifier.config.tau_threshold


def test_settings_are_in_the_config(tmp_path, tiny):
    settings = Serving(max_batch_size=12, max_queue_delay=700, instances=3, gpu=True)
    write_model(tiny, tmp_path / "models", name="other", version=4, serving=settings)
    config = read(tmp_path / "models/other")
    assert (tmp_path / "models/other/4/model.onnx").is_file()
    assert (config.name, config.max_batch_size) == ("other", 12)
    assert list(config.dynamic_batching.preferred_batch_size) == [6, 12]
    assert config.dynamic_batching.max_queue_delay_microseconds == 700
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 96
    assert config.version_policy.latest.num_versions == 2
    (group,) = config.instance_group
    assert (group.count, group.kind) == (3, schema.ModelInstanceGroup.KIND_GPU)
    write_model(tiny, tmp_path / "models", name="one", serving=Serving(max_batch_size=1))
    alone = read(tmp_path / "models/one")
    assert list(alone.dynamic_batching.preferred_batch_size) == [1]
    assert [request.batch_size for request in alone.model_warmup] == [1, 1]
    assert alone.instance_group[0].kind == schema.ModelInstanceGroup.KIND_CPU


def test_the_config_says_what_the_model_is(tmp_path, make):
    file = make(calibrated=False, config=SETTINGS)
    with pytest.warns(UncalibratedWarning):
        write_model(file, tmp_path / "models", version=3)
    said = {key: value.string_value for key, value in read(tmp_path / "models/clipfast").parameters.items()}
    assert said.keys() == {"clipfast.3", "calibrated.3", "limits"}
    assert said["calibrated.3"] == "false"
    metadata = Metadata.from_json(said["clipfast.3"])
    assert metadata == make_metadata(profile="serving", calibrated=False)
    assert said["limits"] == metadata.limits
    assert "not a certified one" in said["limits"]


def test_a_newer_version_leaves_the_older_as_it_was(written, make):
    before = tree(written)
    config = written / "clipfast" / CONFIG
    edited = config.read_text().replace("count: 1", "count: 5")
    config.write_text(edited)
    newer = make(calibrated=True, calibration=None)
    assert write_model(newer, written, version=2) == written / "clipfast/2"
    after = tree(written)
    assert after.pop("clipfast/2") is None
    assert after.pop("clipfast/2/model.onnx") == newer.read_bytes()
    assert after.pop(f"clipfast/{CONFIG}") != before.pop(f"clipfast/{CONFIG}")
    assert after == before
    found = read(written / "clipfast")
    assert found.instance_group[0].count == 5, "an edit was lost"
    assert {"clipfast.1", "clipfast.2", "calibrated.1", "calibrated.2", "limits"} == found.parameters.keys()
    assert Metadata.from_json(found.parameters["clipfast.1"].string_value).calibration is not None
    assert Metadata.from_json(found.parameters["clipfast.2"].string_value).calibration is None


def test_a_version_comes_into_its_place_after_the_config_describes_it(written, make, monkeypatch):
    rename, seen = Path.rename, []

    def move(self, target):
        seen.append("clipfast.2" in read(written / "clipfast").parameters)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", move)
    write_model(make(), written, version=2)
    assert seen == [True]


def test_a_version_is_replaced_only_when_asked(written, make):
    other = make(weights=np.ones((3, 4), np.float32))
    before = tree(written)
    with pytest.raises(InputError, match="has version 1 already"):
        write_model(other, written)
    assert tree(written) == before
    write_model(other, written, replace=True)
    assert (written / "clipfast/1/model.onnx").read_bytes() == other.read_bytes()
    assert tree(written).keys() == before.keys()


def test_external_data_goes_along(tmp_path):
    model = make_onnx(make_metadata(profile="serving"), weights=np.ones((3, 4), np.float32))
    path = tmp_path / "large.onnx"
    options = {"save_as_external_data": True, "location": "large.onnx.data", "size_threshold": 70}
    onnx.save_model(model, path, **options)
    folder = write_model(path, tmp_path / "models")
    assert sorted(file.name for file in folder.iterdir()) == ["large.onnx.data", "model.onnx"]
    path.with_name("large.onnx.data").unlink()
    picture = np.full((1, 3, 32, 32), 0.5, np.float32)
    answer = OnnxClassifier(folder / "model.onnx").predict(picture)
    np.testing.assert_allclose(answer.undefended_logits, np.full((1, 4), 1.5), atol=1e-5)


REFUSED = {
    "lab": ({"profile": "lab"}, "profile lab: its callers .* could switch the defence off"),
    "static": ({"static": True, "batch": 1}, "is static and cannot be batched"),
    "fixed batch": ({"batch": 8}, "of a fixed batch and cannot be batched: .* got batch 8"),
    "two-line class": ({"classnames": ("a\nb", "c", "d", "e")}, r"without control characters, got 'a\\nb'"),
    "other classes": ({"classnames": ("red", "blue", "green", "grey")}, "has other classes than"),
    "fewer classes": ({"classnames": ("red", "green")}, r"TYPE_FP32 \[2\] as output 'logits', .*\[4\]"),
    "other pixels": ({"pixels": "uint8"}, "TYPE_UINT8 .* as input 'pixels', .*TYPE_FP32"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_artifacts_by_name(written, make, case):
    changes, message = REFUSED[case]
    before = tree(written.parent)
    with pytest.raises(ArtifactError, match=message) as caught:
        write_model(make(**changes), written, version=2)
    assert "made.onnx" in str(caught.value)
    assert tree(written.parent) == before
    if "classes" not in case and "pixels" not in case:
        with pytest.raises(ArtifactError, match=message):
            write_model(make(**changes), written, name="new")
        assert tree(written.parent) == before


BROKEN = {
    "truncated": (lambda file: file.write_bytes(file.read_bytes()[:-100]), "truncated|cannot load it"),
    "empty": (lambda file: file.write_bytes(b""), "zero bytes"),
    "missing": (lambda file: file.unlink(), "cannot read"),
    "no metadata": (lambda file: file.write_bytes(_foreign()), "carries no clipfast metadata"),
    "other graph": (lambda file: file.write_bytes(_other_graph()), "its metadata has .* as output 'logits'"),
}


def _foreign() -> bytes:
    return make_onnx(make_metadata(profile="serving"), said="").SerializeToString()


def _other_graph() -> bytes:
    said = make_metadata(profile="serving", classnames=("a", "b")).to_json()
    return make_onnx(make_metadata(profile="serving"), said=said).SerializeToString()


@pytest.mark.parametrize("case", BROKEN)
def test_refuses_corrupted_artifacts(written, make, case):
    damage, message = BROKEN[case]
    file, before = make(), tree(written.parent)
    damage(file)
    asked: list[dict[str, Any]] = [{"version": 2}, {"name": "new"}]
    for options in asked:
        with pytest.raises(ArtifactError, match=message):
            write_model(file, written, **options)
    assert tree(written.parent) == before


def test_refuses_other_formats(written, tmp_path):
    (tmp_path / "a.pt2").write_bytes(b"PK")
    with pytest.raises(ArtifactError, match=r"expected an \.onnx file"):
        write_model(tmp_path / "a.pt2", written, version=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "../up"}, "name must be"),
        ({"name": ".hidden"}, "name must be"),
        ({"version": 0}, "version must be an integer from 1"),
        ({"version": 2, "serving": Serving()}, "settles how clipfast is served: edit it"),
    ],
)
def test_refuses_bad_options(written, tiny, options: dict[str, Any], message):
    before = tree(written.parent)
    with pytest.raises(InputError, match=message):
        write_model(tiny, written, **options)
    assert tree(written.parent) == before


@pytest.mark.parametrize("setting", ["max_batch_size", "instances", "max_queue_delay"])
def test_refuses_bad_settings(setting):
    bad: dict[str, Any] = {setting: -1}
    with pytest.raises(InputError, match=f"{setting} must be an integer"):
        Serving(**bad)


def test_refuses_a_folder_that_is_not_there_and_a_config_that_is_none(written, tmp_path, tiny):
    with pytest.raises(InputError, match="no such folder"):
        write_model(tiny, tmp_path / "nowhere/models")
    (written / "clipfast" / CONFIG).write_text("nonsense: 1")
    with pytest.raises(InputError, match=r"config.pbtxt: expected a ModelConfig .*nonsense"):
        write_model(tiny, written, version=2)
    (written / "clipfast" / CONFIG).unlink()
    with pytest.raises(InputError, match="cannot read"):
        write_model(tiny, written, version=2)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("options", [{"version": 2}, {"replace": True}, {"name": "new"}])
@pytest.mark.parametrize("step", ["copy", "move"])
def test_a_write_that_fails_leaves_all_as_it_was(written, make, monkeypatch, error, options, step):
    before = tree(written)
    reached = []
    copyfile, rename = shutil.copyfile, Path.rename

    def copy(source, target):
        assert tree(written) == before, "what is half written must not lie in the repository"
        copyfile(source, target)
        reached.append(target)
        raise error

    def move(self, target):
        if self.name not in ("old", "1"):  # putting back what stood there
            reached.append(target)
            raise error
        return rename(self, target)

    if step == "copy":
        monkeypatch.setattr(shutil, "copyfile", copy)
    else:
        monkeypatch.setattr(Path, "rename", move)
    expected = InputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write_model(make(calibration=None), written, **options)
    assert reached
    assert tree(written) == before
    assert [entry.name for entry in written.parent.iterdir()] == ["models"]


def test_the_command_needs_no_torch(tmp_path, tiny, make):
    command = ["repository.py", tiny, "--out", tmp_path / "models", "--instances", 2]
    done = without("torch onnx open_clip", *command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "models/clipfast/1")
    assert read(tmp_path / "models/clipfast").instance_group[0].count == 2
    again = without("torch onnx open_clip", *command[:-2])
    assert again.returncode == 2
    assert "error: " in again.stderr
    assert "has version 1 already" in again.stderr
    more = without("torch onnx open_clip", *command, "--version", 2)
    assert more.returncode == 2
    assert "edit it" in more.stderr
    assert without("torch onnx open_clip", *command[:-2], "--version", 2).returncode == 0
    lab = without("torch", "repository.py", make("lab.onnx", profile="lab"), "--out", tmp_path / "lab")
    assert lab.returncode == 2
    assert "lab.onnx is of the profile lab" in lab.stderr
    assert not (tmp_path / "lab").exists()


def test_files_are_prepared_as_the_model_takes_them(written, make):
    """The chain is written once, and a version that prepares its pictures otherwise is refused."""
    write_model(make(), written, version=2, files=True)
    assert {file.name for file in (written / "clipfast_decode/1").iterdir()} == {
        "model.py",
        "backend_tensors.py",
    }
    settings = json.loads(read(written / "clipfast_decode").parameters["preprocess"].string_value)
    assert settings["size"] == [32, 32]
    steps = read(written / "clipfast_files").ensemble_scheduling.step
    assert [step.model_name for step in steps] == ["clipfast_decode", "clipfast"]
    before = tree(written)
    other = make("other.onnx", preprocess=Preprocess(size=(32, 32), interpolation="bilinear"))
    with pytest.raises(ArtifactError, match=r"clipfast_decode/config\.pbtxt prepares .*bicubic.*bilinear"):
        write_model(other, written, version=3)
    assert tree(written) == before
    write_model(make(), written, version=3, files=True)
    assert tree(written).items() >= before.items() - {
        ("clipfast/config.pbtxt", before["clipfast/config.pbtxt"])
    }
