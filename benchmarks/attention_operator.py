"""ONNX's Attention (opset 23) against products and softmax: `python benchmarks/attention_operator.py`.

In ONNX Runtime on two threads, in turns, at the shapes of ViT-B/32 and of the bundled model, without a mask.
The exported forward pass keeps the softmax for its gradient, which Attention does not give: it could take the
place of products and softmax in passes without a gradient alone.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import onnxruntime
from onnx import TensorProto, checker, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from clipfast.measurement.interleave import interleaved

THREADS, OPSET = 2, 23
SHAPES = {  # heads, tokens, width of a head
    "ViT-B/32": (12, 50, 64),
    "bundled": (3, 65, 64),
}
BATCHES = (1, 8)


def session(nodes: list[object], constants: dict[str, np.ndarray]) -> onnxruntime.InferenceSession:
    """A graph from q, k and v [N, heads, tokens, width] to y."""
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "heads", "tokens", "width"])
        for name in ("q", "k", "v", "y")
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "attention", ports[:3], ports[3:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=11)
    checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def forms(width: int) -> dict[str, onnxruntime.InferenceSession]:
    """Both, by name."""
    node = helper.make_node
    return {
        "products and softmax": session(
            [
                node("Mul", ["q", "scale"], ["scaled"]),
                node("Transpose", ["k"], ["turned"], perm=[0, 1, 3, 2]),
                node("MatMul", ["scaled", "turned"], ["scores"]),
                node("Softmax", ["scores"], ["weights"], axis=-1),
                node("MatMul", ["weights", "v"], ["y"]),
            ],
            {"scale": np.float32(width**-0.5)},
        ),
        "Attention": session([node("Attention", ["q", "k", "v"], ["y"])], {}),
    }


def main() -> None:
    """Measures and prints a table."""
    table = Table("model", "batch", "products and softmax, ms", "Attention, ms", "ratio", "apart by")
    for name, (heads, tokens, width) in SHAPES.items():
        both = forms(width)
        for batch in BATCHES:
            numbers = np.random.default_rng(0)
            feed = {
                key: numbers.standard_normal((batch, heads, tokens, width), dtype=np.float32)
                for key in ("q", "k", "v")
            }
            products, attention = (np.asarray(one.run(None, feed)[0]) for one in both.values())
            seconds = interleaved([partial(one.run, None, feed) for one in both.values()], repeats=200)
            table.add_row(
                name,
                str(batch),
                *(f"{1000 * value:.3f}" for value in seconds),
                f"{seconds[1] / seconds[0]:.2f}",
                f"{np.abs(products - attention).max():.1e}",
            )
    console = Console(width=110)
    console.print(f"ONNX Runtime {onnxruntime.__version__}, {THREADS} threads")
    console.print(table)


if __name__ == "__main__":
    main()
