"""Rewrites of ONNX graphs, on graphs made by hand."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from clipfast.exporters.onnx.rewrites import keep_weights_once


@pytest.mark.parametrize("turned", [0, 1])
def test_a_product_with_a_transposed_weight_reads_the_weight_itself(turned):
    random = np.random.default_rng(0)
    weight, x = (random.standard_normal(shape, dtype=np.float32) for shape in ((4, 4), (2, 4)))
    nodes = [
        helper.make_node("Transpose", ["weight"], ["other"], perm=[1, 0]),
        helper.make_node("Gemm", ["x", "other"], ["y"], transB=turned),
    ]
    pixels, result = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4]) for name in ("x", "y"))
    graph = helper.make_graph(nodes, "g", [pixels], [result], [numpy_helper.from_array(weight, "weight")])
    model = ir.serde.deserialize_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    )
    keep_weights_once(model.graph)
    written = ir.serde.serialize_model(model)
    assert [node.op_type for node in written.graph.node] == ["Gemm"]
    assert written.graph.node[0].input[1] == "weight"
    onnx.checker.check_model(written, full_check=True)
    (y,) = onnxruntime.InferenceSession(written.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(y, x @ (weight if turned else weight.T), rtol=1e-6, atol=1e-6)
