"""Rewrites of an exported ONNX graph that PyTorch's exporter does not make. They change no value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

__all__ = ["gather_once", "guard_empty_rows", "keep_weights_once", "read_square_weights_one_way", "strip"]

_INT64_MAX = np.iinfo(np.int64).max


def guard_empty_rows(graph: ir.Graph) -> None:
    """Moves the computation for selected rows, from NonZero to ScatterND, into an `If` on any row.

    Runtimes differ in how they treat tensors without rows. ONNX Runtime's fused MatMul divides by zero on
    some. The `If` also saves slicing activations when no row is selected.

    Args:
        graph: The graph, which is changed in place.
    """
    for selection in [node for node in graph if node.op_type == "NonZero"]:
        region, exits = _region(graph, selection)
        condition = _is_any(selection)  # uses the mask, so that the mask stays outside the `If`
        for node in reversed(list(graph)):
            if node not in region and _is_used_only_by(node, region, exits):
                region.add(node)
        _put_under_if(graph, condition, region, exits)
    graph.sort()


def _region(graph: ir.Graph, selection: ir.Node) -> tuple[set[ir.Node], list[ir.Node]]:
    """The nodes that depend on the selected rows, and the ScatterNDs that write them back."""
    region, exits = {selection}, []
    for node in graph:
        producers = [None if value is None else value.producer() for value in node.inputs]
        if not any(p in region and p not in exits for p in producers):
            continue
        region.add(node)
        if node.op_type == "ScatterND" and producers[0] not in region:
            exits.append(node)
    return region, exits


def _is_used_only_by(node: ir.Node, region: set[ir.Node], exits: list[ir.Node]) -> bool:
    """Whether only the region needs a node's outputs.

    A node whose output rows are written back into does not count: it is needed without any row, too.
    """
    uses = [use for output in node.outputs for use in output.uses()]
    is_result = any(output.is_graph_output() for output in node.outputs)
    others = any(user not in region or (user in exits and index == 0) for user, index in uses)
    return bool(uses) and not is_result and not others


def _is_any(selection: ir.Node) -> list[ir.Node]:
    """Nodes that tell whether any row is selected, the last of them as a bool."""
    mask = selection.inputs[0]
    assert mask is not None
    number = _named("Cast", [mask], f"{mask.name}_number", to=ir.DataType.INT32)
    most = _named("ReduceMax", number.outputs, f"{mask.name}_most", keepdims=0)
    return [number, most, _named("Cast", most.outputs, f"{mask.name}_any", to=ir.DataType.BOOL)]


def _put_under_if(
    graph: ir.Graph, condition: list[ir.Node], region: set[ir.Node], exits: list[ir.Node]
) -> None:
    moved = [node for node in graph if node in region]
    unchanged = [_named("Identity", node.inputs[:1], f"{node.outputs[0].name}_passed") for node in exits]
    for node, copied in zip(exits, unchanged, strict=True):
        _describe(copied.outputs[0], node.outputs[0])
    some = condition[-1].outputs[0]
    branch = ir.node("If", [some], num_outputs=len(exits))
    for result, node in zip(branch.outputs, exits, strict=True):
        _describe(result, node.outputs[0])
        result.name, node.outputs[0].name = node.outputs[0].name, f"{node.outputs[0].name}_countered"
        for i, output in enumerate(graph.outputs):
            if output is node.outputs[0]:
                graph.outputs[i] = result
        for user, index in tuple(node.outputs[0].uses()):
            user.replace_input_with(index, result)
    graph.insert_after(moved[-1], [*condition, branch])
    graph.remove(moved)
    for name, nodes, ends in (("then_branch", moved, exits), ("else_branch", unchanged, unchanged)):
        body = ir.Graph([], [node.outputs[0] for node in ends], nodes=nodes, name=f"{some.name}_{name}")
        branch.attributes[name] = ir.AttrGraph(name, body)


def _named(op_type: str, inputs: Sequence[ir.Value | None], name: str, **attributes: int) -> ir.Node:
    """A node of one output with a name of its own, because a name must be unique in the whole model."""
    node = ir.node(op_type, inputs, attributes)
    node.outputs[0].name = name
    return node


def _describe(value: ir.Value, like: ir.Value) -> None:
    value.shape, value.type = like.shape, like.type


def gather_once(graph: ir.Graph) -> None:
    """Gathers rows of a tensor's second half from the whole tensor, not from a copy of that half.

    Args:
        graph: The graph, which is changed in place.
    """
    offsets: dict[tuple[ir.Value, ir.Value], ir.Value] = {}
    for body in _bodies(graph):
        for node in list(body):
            half = node.inputs[0].producer() if node.op_type == "Gather" and node.inputs[0] else None
            start = None if half is None else _tail_start(half)
            if half is None or start is None or _attribute(node, "axis", 0) != 0:
                continue
            rows = node.inputs[1]
            assert rows is not None
            key = (rows, start)
            if key not in offsets:
                shifted = _named("Add", [rows, start], f"{rows.name}_in_{start.name}")
                shifted.outputs[0].type = rows.type
                body.insert_before(node, shifted)
                offsets[key] = shifted.outputs[0]
            node.replace_input_with(0, half.inputs[0])
            node.replace_input_with(1, offsets[key])
            if not half.outputs[0].uses():
                assert half.graph is not None
                half.graph.remove(half, safe=True)


def _tail_start(node: ir.Node) -> ir.Value | None:
    """The start of a Slice [start:] along the first axis."""
    if node.op_type != "Slice" or len(node.inputs) < 4:
        return None
    ends, axes, *steps = (_constant(value) for value in node.inputs[2:])
    first = all(known is not None for known in (ends, axes, *steps))
    if first and ends == [_INT64_MAX] and axes == [0] and all(step == [1] for step in steps):
        return node.inputs[1]
    return None


def keep_weights_once(graph: ir.Graph) -> None:
    """Reads a transposed weight by Gemm's own transposition, so that no runtime makes a second copy.

    Args:
        graph: The graph, which is changed in place.
    """
    for body in _bodies(graph):
        for node in list(body):
            turn = node.inputs[1].producer() if node.op_type == "Gemm" and node.inputs[1] else None
            weight = turn.inputs[0] if turn is not None and turn.op_type == "Transpose" else None
            if turn is None or weight is None or not weight.is_initializer():
                continue
            node.attributes["transB"] = ir.AttrInt64("transB", 1 - _attribute(node, "transB", 0))
            node.replace_input_with(1, weight)
            if not turn.outputs[0].uses():
                assert turn.graph is not None
                turn.graph.remove(turn, safe=True)


def read_square_weights_one_way(graph: ir.Graph) -> None:
    """Turns y W into (W^T y^T)^T if the square weight W is also read as x W^T.

    OpenVINO's CPU plugin (2026.4.1) treats two Gemms over one square weight as the same, whatever their
    transB says, and one of them is silently wrong. Other forms of either product were wrong as well:
    MatMul, MatMul over a Transpose, and a weight with one more axis. This form, with W in the first
    place, costs a copy of the product.

    Args:
        graph: The graph, which is changed in place.
    """
    readers: dict[ir.Value, list[ir.Node]] = {}
    for body in _bodies(graph):
        for node in body:
            weight = node.inputs[1] if node.op_type == "Gemm" else None
            if weight is not None and weight.is_initializer() and _is_square(weight):
                readers.setdefault(weight, []).append(node)
    for nodes in readers.values():
        transposed, plain = (
            [node for node in nodes if _attribute(node, "transB", 0) == way] for way in (1, 0)
        )
        if transposed:
            for node in plain:
                _turn(node)


def _turn(node: ir.Node) -> None:
    """Replaces Gemm(y, W) by the Transpose of Gemm(W, y)."""
    y, weight, *bias = node.inputs
    assert not bias
    body, (result,) = node.graph, node.outputs
    assert body is not None
    across = 1 - _attribute(node, "transA", 0)
    product = _named("Gemm", [weight, y], f"{result.name}_turned", transA=1, transB=across)
    back = ir.node("Transpose", product.outputs, {"perm": [1, 0]})
    name = result.name
    ir.convenience.replace_nodes_and_values(body, node, [node], [product, back], [result], back.outputs)
    back.outputs[0].name = name


def strip(model: ir.Model) -> None:
    """Removes what the exporter notes for its developers: stack traces, and shapes of inner values.

    Args:
        model: The model, which is changed in place.
    """
    model.metadata_props.clear()
    for body in _bodies(model.graph):
        body.metadata_props.clear()
        for node in body:
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
                if not value.is_graph_output():
                    value.shape = value.type = None
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def _bodies(graph: ir.Graph) -> Iterator[ir.Graph]:
    yield graph
    for node in list(graph):
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from _bodies(attribute.as_graph())


def _is_square(value: ir.Value) -> bool:
    assert value.shape is not None
    return len(value.shape) == 2 and value.shape[0] == value.shape[1]


def _attribute(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def _constant(value: ir.Value | None) -> list[int] | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy().reshape(-1).tolist()
