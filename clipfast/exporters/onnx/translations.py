"""ONNX forms of operators for which PyTorch's exporter makes worse forms or copies weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from onnxscript import ir, opset20

from ...torch_private import softmax_backward

__all__ = ["TRANSLATIONS"]

_aten = torch.ops.aten
op: Any = opset20  # Any, because its annotations are of ONNX's own types


def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """One Gemm, which reads the weight as it is stored and adds the bias."""
    rows = _rows(x)
    product = op.Gemm(rows, weight, bias, transB=1) if bias is not None else op.Gemm(rows, weight, transB=1)
    return _back(product, x, weight.shape[0])


def _matmul(a: Any, b: Any) -> Any:
    """The gradient of a linear layer as one Gemm; any other product stays a MatMul."""
    if len(b.shape) != 2 or len(a.shape) < 2:
        return op.MatMul(a, b)
    return _back(op.Gemm(_rows(a), b), a, b.shape[1])


def _rows(x: Any) -> Any:
    return x if len(x.shape) == 2 else op.Reshape(x, op.Constant(value_ints=[-1, x.shape[-1]]))


def _back(product: Any, x: Any, width: int) -> Any:
    if len(x.shape) == 2:
        return product
    sizes = [size if isinstance(size, int) else -1 for size in x.shape[:-1]]
    assert sizes.count(-1) <= 1, f"expected one dynamic axis, got {x.shape}"
    return op.Reshape(product, op.Constant(value_ints=[*sizes, width]))


def _gelu_gradient(grad_output: Any, self: Any, approximate: str = "none") -> Any:
    """Of x Phi(x): Phi(x) + x phi(x), with z = x / sqrt(2): (1 + erf z + 2 / sqrt(pi) z exp(-z^2)) / 2."""
    if approximate == "tanh":
        return _tanh_gelu_gradient(grad_output, self)
    z = op.Mul(self, _number(self, math.sqrt(0.5)))
    bell = op.Exp(op.Sub(_number(self, math.log(2 / math.sqrt(math.pi))), op.Mul(z, z)))
    twice = op.Add(op.Add(op.Mul(z, bell), op.Erf(z)), _number(self, 1.0))
    return op.Mul(grad_output, op.Mul(twice, _number(self, 0.5)))


def _tanh_gelu_gradient(g: Any, x: Any) -> Any:
    """With u = sqrt(2 / pi) (x + a x^3): (1 + tanh u) / 2 + x / 2 (1 - tanh(u)^2) du/dx."""
    root, a = math.sqrt(2 / math.pi), 0.044715
    square = op.Mul(x, x)
    u = op.Mul(x, op.Add(op.Mul(square, _number(x, root * a)), _number(x, root)))
    t = op.Tanh(u)
    slope = op.Add(op.Mul(square, _number(x, 3 * root * a)), _number(x, root))
    rest = op.Mul(op.Mul(x, op.Sub(_number(x, 1.0), op.Mul(t, t))), slope)
    return op.Mul(g, op.Mul(op.Add(op.Add(t, rest), _number(x, 1.0)), _number(x, 0.5)))


def _silu_gradient(grad_output: Any, self: Any) -> Any:
    """Of x s, s = sigmoid(x): s + x s (1 - s)."""
    s = op.Sigmoid(self)
    y = op.Mul(self, s)
    return op.Mul(grad_output, op.Add(s, op.Sub(y, op.Mul(y, s))))


def _softmax_gradient(grad_output: Any, output: Any, dim: int, input_dtype: int) -> Any:  # noqa: ARG001
    """Of p = softmax(x): p (g - sum g p)."""
    weighted = op.Mul(grad_output, output)
    total = op.ReduceSum(weighted, op.Constant(value_ints=[dim]), keepdims=1)
    return op.Sub(weighted, op.Mul(output, total))


def _layer_norm_gradient(
    grad_out: Any,
    input: Any,
    normalized_shape: Sequence[int],
    mean: Any,
    rstd: Any,
    weight: Any = None,
    bias: Any = None,  # noqa: ARG001
    output_mask: Sequence[bool] = (True, False, False),  # noqa: ARG001
) -> Any:
    """With c = x - mean, g' = g weight: rstd (g' - mean(g') - c rstd^2 mean(g' c)). Input alone."""
    axes = op.Constant(value_ints=list(range(-len(normalized_shape), 0)))
    g = grad_out if weight is None else op.Mul(grad_out, weight)
    centred = op.Sub(input, mean)
    slope = op.Mul(op.ReduceMean(op.Mul(g, centred), axes, keepdims=1), op.Mul(rstd, rstd))
    along = op.Add(op.Mul(centred, slope), op.ReduceMean(g, axes, keepdims=1))
    unused = op.Constant(value_float=0.0)  # of weight and bias, and dropped
    return op.Mul(op.Sub(g, along), rstd), unused, op.Identity(unused)


def _convolution_gradient(
    grad_output: Any,
    input: Any,
    weight: Any,
    bias_sizes: Sequence[int] | None,  # noqa: ARG001
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],  # noqa: ARG001
    groups: int,
    output_mask: Sequence[bool],  # noqa: ARG001
) -> Any:
    """A transposed convolution by the same weight; the gradient of the input alone."""
    assert not transposed, "expected a plain convolution"
    kernel = weight.shape[2:]
    gradient = _spread(grad_output, weight, input.shape[2:], kernel, stride, padding, dilation, groups)
    unused = op.Constant(value_float=0.0)  # of weight and bias, and dropped
    return gradient, unused, op.Identity(unused)


def _average_pool_gradient(
    grad_output: Any,
    self: Any,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Any:
    """A transposed convolution of each channel by a constant."""
    whole = [
        (size + 2 * pad - length) % step == 0 or not ceil_mode
        for size, pad, length, step in zip(
            self.shape[2:], padding, kernel_size, stride or kernel_size, strict=True
        )
    ]
    assert all(whole), "expected an average over whole windows"
    assert count_include_pad or not any(padding), "expected an average that counts the padding"
    share = 1 / (divisor_override or math.prod(kernel_size))
    channels = self.shape[1]
    weight = np.full((channels, 1, *kernel_size), share, np.float32)
    return _spread(
        grad_output,
        op.Constant(value=ir.tensor(weight, dtype=self.dtype)),
        self.shape[2:],
        kernel_size,
        stride or kernel_size,
        padding,
        [1] * len(kernel_size),
        channels,
    )


def _spread(
    g: Any,
    weight: Any,
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Any:
    """The transposed convolution of `g` to a picture of `size`."""
    axes = range(len(stride))
    reached = [(g.shape[2 + i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1 for i in axes]
    return op.ConvTranspose(
        g,
        weight,
        dilations=list(dilation),
        group=groups,
        output_padding=[size[i] + 2 * padding[i] - reached[i] for i in axes],
        pads=[*padding, *padding],
        strides=list(stride),
    )


def _index_copy(self: Any, dim: int, index: Any, source: Any) -> Any:
    """Rows written back, along the first axis."""
    assert dim == 0, f"expected the first axis, got {dim}"
    return op.ScatterND(self, op.Unsqueeze(index, op.Constant(value_ints=[1])), source)


def _uniform(self: Any, low: float, high: float) -> Any:
    """Drawn at every run."""
    return op.RandomUniformLike(self, low=low, high=high)


def _number(like: Any, value: float) -> Any:
    return op.Constant(value=ir.tensor(value, dtype=like.dtype))


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    _aten.linear.default: _linear,
    _aten.matmul.default: _matmul,
    _aten.gelu_backward.default: _gelu_gradient,
    _aten.silu_backward.default: _silu_gradient,
    softmax_backward.default: _softmax_gradient,
    _aten.avg_pool2d_backward.default: _average_pool_gradient,
    _aten.convolution_backward.default: _convolution_gradient,
    _aten.index_copy.default: _index_copy,
    _aten.uniform.default: _uniform,
    _aten.native_layer_norm_backward.default: _layer_norm_gradient,
}
