"""The defence in ONNX Runtime, for every tower, batch size and gate, and what the files hold."""

from __future__ import annotations

import collections
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from lab import DEPTHS, DRIFT_TOWERS, STAGES, Lab, restless
from torch import Tensor, nn
from towers import EXPLICIT, TRACED, VIT, VITS, build, build_vit

from clipfast.exporters.onnx import writer as to_onnx
from clipfast.exporters.writing import OPSETS

BY_VALUE = {"NonZero", "ScatterND", "If", "Loop", "RandomUniformLike", "RandomNormalLike", "Shape"}


class Exported(Lab):
    """A tower's lab file, and the reference beside it."""

    def __init__(self, model: nn.Module, path: Path, *, opset=20, external_above=1 << 30, **options):
        super().__init__(model, **options)
        self.path = path
        to_onnx.write(
            self.graph,
            self.examples,
            "{}",
            path,
            inputs=self.inputs,
            outputs=self.outputs,
            opset=opset,
            external_above=external_above,
        )
        self.names = [port.name for port in self.outputs]
        self.session = onnxruntime.InferenceSession(path)

    def run(self, x: Tensor, noise: Tensor, threshold: Tensor) -> list[Tensor]:
        fed = {"pixels": x.numpy(), "noise": noise.numpy(), "tau_threshold": threshold.numpy()}
        return [torch.from_numpy(array) for array in self.session.run(self.names, fed)]

    def agrees(self, n: int, mix: str) -> None:
        self.check(self.run, n, mix)


FAMILIES = {**TRACED, **{name: EXPLICIT[name] for name in ("vit QuickGELU", "vit tanh GELU", "vit mean")}}
FAMILIES |= {name: EXPLICIT[name] for name in ("vit 145 tokens", "vit layer scale", "coca class token")}
FAMILIES["vit QuickGELU, 145 tokens"] = lambda: build(
    **VIT | VITS["145 tokens"] | VITS["QuickGELU"] | VITS["one block"]
)
# The embedding of "proj none" is a view of all tokens.
QUICK = {"resnet", "timm siglip", "timm vit proj none", "vit QuickGELU, 145 tokens"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(
    scope="module",
    params=[name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES],
)
def family(request, folder) -> Exported:
    model = FAMILIES[request.param]()
    # Of a ResNet that hardly drifts the gradients are mostly rounding.
    model = restless(model) if request.param == "resnet" else model
    return Exported(model, folder / "tower.onnx", steps=1)


def test_every_family(family):
    for mix in ("none", "some", "all"):
        family.agrees(4, mix)


@pytest.fixture(scope="module")
def vit(folder) -> Exported:
    return Exported(restless(build(**VIT | {"layers": 2})), folder / "vit.onnx")


@pytest.mark.parametrize("mix", ["none", "some", "all"])
@pytest.mark.parametrize("n", [1, 2, 3, 8, 13])
def test_any_batch_and_gate_in_one_session(vit, n, mix):
    if n > 1 or mix != "some":
        vit.agrees(n, mix)


def test_what_countered_rows_need_is_not_run_without_any(vit):
    outside = {node.op_type for node in onnx.load(vit.path).graph.node}
    assert "If" in outside
    assert not {"NonZero", "ScatterND"} & outside


# Each with an opset of its own: the bundled model in half precision has 21, all else has the default, 20.
@pytest.mark.parametrize(("opset", "kind"), [*zip(OPSETS[-2:], DRIFT_TOWERS, strict=True)])
def test_another_tower_measures_drift(tmp_path, opset, kind):
    tower, drift_tower = build_vit("one block", gain=8.0), build_vit("one block, mean", seed=1, gain=8.0)
    exported = Exported(
        tower, tmp_path / "t.onnx", drift_model=drift_tower, opset=opset, **DRIFT_TOWERS[kind]
    )
    assert onnx.load(exported.path).opset_import[0].version == opset
    for mix in ("none", "some", "all"):
        exported.agrees(4, mix)


@pytest.mark.parametrize("static", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", list(STAGES)[:3])
def test_other_stages(tmp_path, kind, static):
    tower = build_vit("one block", gain=8.0)
    exported = Exported(tower, tmp_path / "t.onnx", static=static, **STAGES[kind])
    for mix in ("none", "all") if static else ("none", "some", "all"):
        exported.agrees(1 if static else 4, mix)


@pytest.mark.parametrize("static", [False, True])
def test_images_pass_early_by_the_tokens_of_a_block(tmp_path, static):
    settings = DEPTHS["mean tokens, then embeddings"]
    exported = Exported(build_vit(gain=8.0), tmp_path / "t.onnx", static=static, **settings)
    for mix in ("none", "all") if static else ("none", "some", "all"):
        exported.agrees(1 if static else 4, mix)


def test_static_file_has_no_shape_that_depends_on_a_value(tmp_path):
    exported = Exported(build_vit("one block", gain=8.0), tmp_path / "static.onnx", static=True)
    model = onnx.load(exported.path)
    assert not {node.op_type for node in nodes(model.graph)} & BY_VALUE
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    shapes = [value.type.tensor_type.shape.dim for value in inferred.graph.value_info]
    assert all(size.HasField("dim_value") for shape in shapes for size in shape)
    for mix in ("none", "all"):
        exported.agrees(1, mix)


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from nodes(attribute.g)


def test_file_holds_each_weight_once_and_nothing_of_its_making(family):
    model = onnx.load(family.path)
    assert {opset.domain for opset in model.opset_import} == {""}
    assert all(
        node.domain == "" and not node.doc_string and not node.metadata_props for node in nodes(model.graph)
    )
    assert not model.functions
    assert {value.name for value in model.graph.value_info} <= {
        tensor.name for tensor in model.graph.initializer
    }
    assert str(Path(__file__).parents[2]) not in str(model)
    stored = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    large = [array for array in stored if array.size > 64]
    assert len({(array.shape, array.tobytes()) for array in large}) == len(large)
    numbers = collections.Counter(array.size for array in large)
    # What is there twice but turned would be a copy too.
    own = sum(p.numel() for p in family.tower.model.visual.parameters())
    own += sum(b.numel() for b in family.tower.model.visual.buffers()) + family.class_weights.numel()
    assert sum(array.size for array in stored) <= 1.02 * own, numbers


def test_weights_beside_the_file_where_it_would_be_too_large(tmp_path):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    model = build_vit("one block", gain=8.0)
    exported = Exported(model, home / "large.onnx", static=True, external_above=10_000)
    assert sorted(file.name for file in home.iterdir()) == ["large.onnx", "large.onnx.data"]
    kept = onnx.load(exported.path, load_external_data=False)
    entries = [entry for tensor in kept.graph.initializer for entry in tensor.external_data]
    assert {entry.value for entry in entries if entry.key == "location"} == {"large.onnx.data"}
    weights = sum(p.numel() for p in exported.tower.model.visual.parameters())
    assert (home / "large.onnx.data").stat().st_size > 0.95 * 4 * weights
    for file in list(home.iterdir()):
        file.rename(elsewhere / file.name)
    exported.session = onnxruntime.InferenceSession(elsewhere / "large.onnx")
    exported.agrees(1, "all")


def test_nothing_stays_patched_when_an_export_fails(tmp_path, monkeypatch):
    log = logging.getLogger("onnxscript")
    before = log.level, torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled()

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(to_onnx.torch.onnx, "export", fail)
    with pytest.raises(RuntimeError, match="no"):
        Exported(build_vit("one block"), tmp_path / "t.onnx", static=True)
    assert (log.level, torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled()) == before
    assert not list(tmp_path.iterdir())


def test_noise_drawn_inside_is_of_the_start(exported, bundled):
    """Its range, its mean and its spread, and that it is drawn for each image and each run."""
    model = onnx.load(exported("serving").path)
    assert [value.name for value in model.graph.input] == ["pixels"]
    (draw,) = (node for node in nodes(model.graph) if node.op_type == "RandomUniformLike")
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(draw.output[0], onnx.TensorProto.FLOAT, None)
    )
    session = onnxruntime.InferenceSession(model.SerializeToString())
    x = np.full((4, 3, *bundled.image_size), 0.5, np.float32)
    first, second = (session.run([draw.output[0]], {"pixels": x})[0] for _ in range(2))
    eps = bundled.config.eps
    assert first.shape == x.shape
    assert np.abs(first).max() <= eps
    assert np.abs(first).max() > 0.999 * eps
    assert abs(first.mean()) < 0.02 * eps
    assert abs(first.std() / (eps / 3**0.5) - 1) < 0.02
    assert np.abs(np.corrcoef(np.concatenate([first, second]).reshape(8, -1)) - np.eye(8)).max() < 0.05
