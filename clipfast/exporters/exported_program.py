"""Traces a graph to a PyTorch exported program, from which the formats are made."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

__all__ = ["Tensors", "export_program"]

Tensors = tuple[Tensor, ...]


def export_program(graph: nn.Module, examples: Tensors, *, batch: int | None) -> ExportedProgram:
    """Traces a graph to a program of PyTorch operators.

    Args:
        graph: The module to trace.
        examples: The graph's inputs, in order. A dynamic batch must have a size that equals no other
            dimension.
        batch: The number of images that the program takes, or None for any number from 1 on.
    """
    any_batch = tuple({0: Dim("batch", min=1)} for _ in examples)
    with torch.no_grad():
        return torch.export.export(
            graph, examples, dynamic_shapes=any_batch if batch is None else None, strict=False
        )
