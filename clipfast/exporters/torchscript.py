"""Writes a graph as TorchScript: a legacy format, which PyTorch has deprecated."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.fx.graph import CodeGen

from ..artifacts.fields import KEY
from ..artifacts.ports import Ports
from ..torch_private import OpOverload
from .exported_program import Tensors, export_program

__all__ = ["write"]


def write(
    graph: nn.Module, examples: Tensors, metadata: str, path: Path, *, inputs: Ports, **_: object
) -> None:
    """Writes the graph as TorchScript, with the metadata in the extra file `clipfast.json`.

    The exported program is compiled and not traced again, because `torch.jit.trace` cannot record the
    gradients of normalisations and convolutions, and takes sizes for constants.

    Args:
        graph: The module to trace, in eval mode.
        examples: The graph's inputs, in order. A dynamic batch must have a size that equals no other
            dimension.
        metadata: The text to store.
        path: The file to write.
        inputs: The inputs that the file must have. The first one's shape tells the batch size.
    """
    program = export_program(graph, examples, batch=inputs[0].shape[0])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is ", FutureWarning)
        # torch.jit warns so of the class of modules that torch.fx makes.
        warnings.filterwarnings("ignore", "The TorchScript type system", UserWarning)
        script = torch.jit.script(_as_script(program))
        torch.jit.save(script, path, _extra_files={f"{KEY}.json": metadata})


def _as_script(program: ExportedProgram) -> GraphModule:
    """The program in the Python that TorchScript compiles: plain arguments, operators by name."""
    module = program.module(check_guards=False)
    graph = module.graph
    for node in list(graph.nodes):
        if isinstance(node.target, OpOverload):
            node.target = node.target.overloadpacket
        with graph.inserting_before(node):
            node.args = tuple(
                graph.call_function(float, (str(value),)) if _has_no_literal(value) else value
                for value in node.args
            )
    graph.set_codegen(CodeGen())
    return GraphModule(module, graph)


def _has_no_literal(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
