"""A graph as PyTorch's own exported program, which formats are made from."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

__all__ = ["Tensors", "export_program"]

Tensors = tuple[Tensor, ...]


def export_program(graph: nn.Module, examples: Tensors, *, batch: int | None) -> ExportedProgram:
    """The graph's operators: for `batch` images, or any number from 1 on where it is None.

    examples: the graph's inputs, of a batch that equals no other dimension where it is dynamic.
    """
    any_batch = tuple({0: Dim("batch", min=1)} for _ in examples)
    with torch.no_grad():
        return torch.export.export(
            graph, examples, dynamic_shapes=any_batch if batch is None else None, strict=False
        )
