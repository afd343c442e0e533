"""Writes a graph compiled ahead of time by AOTInductor, for the device and CPU at hand."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from .. import torch_private
from ..artifacts.fields import KEY
from ..artifacts.ports import Ports
from ..measurement.trials import fastest
from ..torch_private import aot_compile, package_aoti
from .exported_program import Tensors, export_program

__all__ = ["write"]

_aten = torch.ops.aten
_TRIED_ROWS = 100


def write(
    graph: nn.Module, examples: Tensors, metadata: str, path: Path, *, inputs: Ports, **_: object
) -> None:
    """Writes the graph as an AOTInductor package, with the metadata under the key `clipfast`.

    The file runs on the kind of device that the graph is on: on CUDA, or on CPUs with the instructions of
    this one. It uses as many threads as torch does when it runs. Writing needs a C++ compiler, and
    minutes for a large tower.

    Args:
        graph: The module to trace, in eval mode.
        examples: The graph's inputs, in order. A dynamic batch must have a size that equals no other
            dimension.
        metadata: The text to store.
        path: The file to write.
        inputs: The inputs that the file must have. The first one's shape tells the batch size.
    """
    program = export_program(graph, examples, batch=inputs[0].shape[0])
    _own_storage(program.constants)
    module = program.module()
    assert isinstance(module, GraphModule)
    _rewrite(module, examples[0].device)
    # A temporary folder, because the weights would stay in Inductor's cache.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder, torch.no_grad():
        files = aot_compile(
            module,
            examples,
            options={
                "aot_inductor.package": True,
                "aot_inductor.output_path": folder,
                "aot_inductor.metadata": {KEY: metadata},
                "aot_inductor.check_lowerbound": False,  # the check would refuse a batch of one image
                "cpp.dynamic_threads": True,
                "layout_optimization": False,  # undone by `_contiguous`
            },
        )
        assert isinstance(files, list)
        # The sources stay out, because they contain the compiler's command and its paths.
        package_aoti(str(path), [file for file in files if Path(str(file)).suffix != ".cpp"])


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer whose bias is added after the product, by the next kernel.

    A product that adds the bias itself first has to fill its result with it.
    """
    product = x @ weight.t()
    return product if bias is None else product + bias


def _onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer by oneDNN.

    Its operand has a shape of its own: Inductor would fuse the product with an addition of one shape, for
    which it compares numbers of rows that it does not know.
    """
    rows = x.reshape(1, 1, -1, x.shape[-1])
    product = torch_private.onednn_linear(rows, weight, bias, "none", [], "")
    return product.reshape(*x.shape[:-1], weight.shape[0])


def _fastest_linear(module: GraphModule, device: torch.device) -> Callable[..., Tensor]:
    """The linear layer that is the fastest on this machine, by a trial of the graph's largest weight.

    MKL's products and oneDNN's read the same weight, so that the package holds no other. On CPUs that MKL
    does not know they take twice oneDNN's time.
    """
    layers = [node for node in module.graph.nodes if node.target is _aten.linear.default]
    if device.type != "cpu" or not layers:
        return _linear
    weight = max((layer.args[1].meta["val"] for layer in layers), key=lambda weight: weight.numel())
    if weight.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
        return _linear
    generator = torch.Generator().manual_seed(0)
    x, values = (
        torch.randn(rows, weight.shape[1], generator=generator) for rows in (_TRIED_ROWS, weight.shape[0])
    )
    forms = {"mkl": lambda: _linear(x, values), "onednn": lambda: _onednn_linear(x, values)}
    what = f"package's product {weight.shape[1]} -> {weight.shape[0]}, {_TRIED_ROWS} rows"
    return _onednn_linear if fastest(what, forms, preferred="mkl", seconds=0.2) == "onednn" else _linear


def _contiguous(convolution: Callable[..., Any]) -> Callable[..., Any]:
    """The convolution over contiguous tensors, so that its results are contiguous too.

    For other layouts Inductor has to predict the layout of the result. It can only guess if the number of
    images is known at the gate alone.
    """

    def over_contiguous(*args: Any) -> Any:
        return convolution(*(arg.contiguous() if isinstance(arg, Tensor) else arg for arg in args))

    return over_contiguous


_REWRITTEN = {
    _aten.convolution.default: _contiguous(_aten.convolution.default),
    _aten.convolution_backward.default: _contiguous(_aten.convolution_backward.default),
}


def _rewrite(module: GraphModule, device: torch.device) -> None:
    rewritten = {**_REWRITTEN, _aten.linear.default: _fastest_linear(module, device)}
    for node in module.graph.nodes:
        node.target = rewritten.get(node.target, node.target)
    module.recompile()


def _own_storage(constants: dict[str, Any]) -> None:
    """Copies each part of a larger tensor, so that the whole is not stored with every part."""
    for name, value in constants.items():
        if isinstance(value, Tensor) and value.untyped_storage().nbytes() > value.nbytes:
            constants[name] = value.clone(memory_format=torch.contiguous_format)
