"""A square weight that is read in both directions: OpenVINO computes it wrong, so that no file has one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper

from clipfast.exporters import verify
from clipfast.exporters.onnx.rewrites import read_square_weights_one_way
from clipfast.models.shapes import draw

SIZE = 192


@pytest.fixture
def both_directions() -> onnx.ModelProto:
    """z = x W^T W of a square weight W."""
    weight = np.random.default_rng(0).random((SIZE, SIZE), dtype=np.float32)
    nodes = [
        helper.make_node("Gemm", ["x", "W"], ["y"], transB=1),
        helper.make_node("Gemm", ["y", "W"], ["z"]),
    ]
    x, z = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", SIZE]) for name in ("x", "z"))
    graph = helper.make_graph(nodes, "g", [x], [z], [numpy_helper.from_array(weight, "W")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def in_openvino(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    core = openvino.Core()
    read = core.read_model(model.SerializeToString(), b"")
    return core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0]


def test_the_products_are_right_in_both_runtimes(both_directions):
    x = np.random.default_rng(1).random((5, SIZE), dtype=np.float32)
    weight = numpy_helper.to_array(both_directions.graph.initializer[0]).astype(np.float64)
    expected = x @ weight.T @ weight
    model = ir.serde.deserialize_model(both_directions)
    read_square_weights_one_way(model.graph)
    written = ir.serde.serialize_model(model)
    onnx.checker.check_model(written, full_check=True)
    (here,) = onnxruntime.InferenceSession(written.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(here, expected, rtol=1e-5)
    np.testing.assert_allclose(in_openvino(written, x), expected, rtol=1e-5)
    if openvino.__version__.startswith("2026.4.1"):  # what the pass is for
        assert np.abs(in_openvino(both_directions, x) / expected - 1).max() > 0.05


@pytest.mark.parametrize("changed", ["one direction", "not square"])
def test_other_weights_are_left_alone(both_directions, changed):
    second = both_directions.graph.node[1]
    if changed == "one direction":
        second.attribute.append(helper.make_attribute("transB", 1))
    else:
        weight = both_directions.graph.initializer[0]
        weight.CopyFrom(numpy_helper.from_array(np.ones((SIZE // 2, SIZE), np.float32), "W"))
    model = ir.serde.deserialize_model(both_directions)
    read_square_weights_one_way(model.graph)
    assert [node.op_type for node in model.graph] == ["Gemm", "Gemm"]


def test_a_file_of_the_old_form_is_found_in_openvino_alone(exported, bundled, tmp_path):
    model = onnx.load(exported("lab").path)
    turned = sum(_turn_back(graph) for graph in _graphs(model.graph))
    assert turned > 0
    path = tmp_path / "old.onnx"
    onnx.save(model, path)
    few = draw(2, seed=(200, 12)).pixels
    assert verify(path, bundled, runtime="onnxruntime", images=few).agrees
    found = verify(path, bundled, runtime="openvino", images=few)
    assert "logits, countered" in found.failures
    assert "undefended logits" not in found.failures  # what makes it hard to see


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _turn_back(graph: onnx.GraphProto) -> int:
    """Makes each Transpose of Gemm(W, y) a Gemm(y, W) again, and says how many there were."""
    products = {node.output[0]: node for node in graph.node if node.op_type == "Gemm"}
    turned = 0
    for node in graph.node:
        product = products.get(node.input[0]) if node.op_type == "Transpose" else None
        flags = {} if product is None else {a.name: a.i for a in product.attribute}
        if product is None or flags.get("transA") != 1 or flags.get("transB") != 1:
            continue
        weight, y = product.input
        node.CopyFrom(helper.make_node("Gemm", [y, weight], list(node.output)))
        turned += 1
    return turned
