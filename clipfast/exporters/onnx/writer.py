"""Writes a graph as ONNX, with standard operators only and each weight stored once."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
import onnxscript.optimizer
import torch
from torch import Tensor, nn

from ... import __version__
from ...artifacts.fields import KEY
from ...artifacts.ports import Port
from ..exported_program import export_program
from . import rewrites as passes
from .translations import TRANSLATIONS

__all__ = ["write"]

# Constants of up to this many numbers are computed ahead. Weights are larger: folding would copy them.
_FOLDED_UP_TO = 2048
_PROTOBUF_LIMIT = (1 << 31) - (1 << 24)  # 2 GiB, less what the graph itself takes
_TIDY = ir.passes.Sequential(
    common.RemoveUnusedNodesPass(),
    common.RemoveUnusedFunctionsPass(),
    common.RemoveUnusedOpsetsPass(),
    common.IdentityEliminationPass(),
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    common.DeduplicateInitializersPass(size_limit=1 << 62),
    common.CommonSubexpressionEliminationPass(),
)


def write(
    graph: nn.Module,
    examples: tuple[Tensor, ...],
    metadata: str,
    path: Path,
    *,
    inputs: tuple[Port, ...],
    outputs: tuple[Port, ...],
    opset: int,
    external_above: int = _PROTOBUF_LIMIT,
) -> None:
    """Writes the graph as ONNX, with the metadata under the key `clipfast`.

    Above `external_above` bytes the weights go to a second file beside it, whose name is that of `path`
    with ".data" added.

    Args:
        graph: The module to trace, in eval mode.
        examples: The graph's inputs, in order. A dynamic batch must have a size that equals no other
            dimension.
        metadata: The text to store.
        path: The file to write.
        inputs: The inputs that the file must have, in order.
        outputs: The outputs that the file must have, in order.
        opset: The opset of ONNX.
        external_above: The largest size of all weights in bytes that is stored in the file itself.

    Raises:
        onnx.checker.ValidationError: If the written file is not valid ONNX.
    """
    program = export_program(graph, examples, batch=inputs[0].shape[0])
    with torch.no_grad(), _quiet():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            input_names=[port.name for port in inputs],
            output_names=[port.name for port in outputs],
            custom_translation_table=TRANSLATIONS,
            optimize=False,
            verbose=False,
        )
        assert exported is not None
        model = exported.model
        onnxscript.optimizer.fold_constants(
            model,
            onnx_shape_inference=False,
            input_size_limit=_FOLDED_UP_TO,
            output_size_limit=_FOLDED_UP_TO,
            should_fold=lambda node: False if node.op_type == "Transpose" else None,
        )
    _TIDY(model)
    passes.keep_weights_once(model.graph)
    passes.read_square_weights_one_way(model.graph)
    passes.guard_empty_rows(model.graph)
    passes.gather_once(model.graph)
    passes.strip(model)
    for value, port in zip((*model.graph.inputs, *model.graph.outputs), (*inputs, *outputs), strict=True):
        value.shape = ir.Shape(["batch" if size is None else size for size in port.shape])
    model.producer_name, model.producer_version, model.doc_string = "clipfast", __version__, None
    model.metadata_props[KEY] = metadata
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    if size > external_above:
        ir.save(model, path, external_data=f"{path.name}.data")
    else:
        ir.save(model, path)
    onnx.checker.check_model(str(path), full_check=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what the exporter prints of its steps and what its optimiser logs of unchanged operators."""
    log = logging.getLogger("onnxscript")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        log.setLevel(before)
