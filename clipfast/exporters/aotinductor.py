"""The defended classifier compiled ahead of time by AOTInductor, for the device and CPU at hand."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from ..artifacts.fields import KEY
from ..artifacts.ports import Ports
from ..torch_private import aot_compile, package_aoti
from .exported_program import Tensors, export_program

__all__ = ["write"]

_aten = torch.ops.aten


def write(
    graph: nn.Module, examples: Tensors, metadata: str, path: Path, *, inputs: Ports, **_: object
) -> None:
    """Writes the graph at `path`, with the metadata under its key `clipfast`.

    examples: the inputs, of a batch that equals no other dimension where it is dynamic. The
    file runs where the graph is: on CUDA, or on CPUs with the instructions of this one, by as many threads
    as torch then has. Needs a C++ compiler, and minutes for a large tower.
    """
    program = export_program(graph, examples, batch=inputs[0].shape[0])
    _own_storage(program.constants)
    module = program.module()
    assert isinstance(module, GraphModule)
    _rewrite(module)
    # Not in Inductor's cache, where the weights would stay.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder, torch.no_grad():
        files = aot_compile(
            module,
            examples,
            options={
                "aot_inductor.package": True,
                "aot_inductor.output_path": folder,
                "aot_inductor.metadata": {KEY: metadata},
                "aot_inductor.check_lowerbound": False,  # it would refuse one image, where it checks at all
                "cpp.dynamic_threads": True,
                "layout_optimization": False,  # undone by `_contiguous`
            },
        )
        assert isinstance(files, list)
        # Without the sources, which hold the compiler's command and the paths in it.
        package_aoti(str(path), [file for file in files if Path(str(file)).suffix != ".cpp"])


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The bias is left to the kernel that follows: a product that adds it first fills its result with it."""
    product = x @ weight.t()
    return product if bias is None else product + bias


def _contiguous(convolution: Callable[..., Any]) -> Callable[..., Any]:
    """Over contiguous tensors, whose results are so too.

    For others Inductor would have to foresee their layout, and guesses where only the gate will know the
    number of images.
    """

    def over_contiguous(*args: Any) -> Any:
        return convolution(*(arg.contiguous() if isinstance(arg, Tensor) else arg for arg in args))

    return over_contiguous


_REWRITTEN = {
    _aten.linear.default: _linear,
    _aten.convolution.default: _contiguous(_aten.convolution.default),
    _aten.convolution_backward.default: _contiguous(_aten.convolution_backward.default),
}


def _rewrite(module: GraphModule) -> None:
    for node in module.graph.nodes:
        node.target = _REWRITTEN.get(node.target, node.target)
    module.recompile()


def _own_storage(constants: dict[str, Any]) -> None:
    """Gives each part of a larger tensor its own memory: the whole of it would be stored with every part."""
    for name, value in constants.items():
        if isinstance(value, Tensor) and value.untyped_storage().nbytes() > value.nbytes:
            constants[name] = value.clone(memory_format=torch.contiguous_format)
