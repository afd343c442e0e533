"""The names that PyTorch keeps private and clipfast uses, all of them: a new release may lack any.

Each is looked up when it is first asked for. Where this PyTorch lacks it, that is an ImportError which names
it and says who uses it; `tests/test_torch_private.py` looks for all of them at once.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, fx, nn

if TYPE_CHECKING:  # its attributes
    from torch._ops import OpOverload as OpOverload

__all__ = [
    "NAMES",
    "PrivateName",
    "find",
    "forward_hooks",
    "forward_pre_hooks",
    "parts_of",
    "trace",
    "version_of",
]


class PrivateName(NamedTuple):
    """path: where it is in torch, or its class is whose instances have it. users: modules of clipfast."""

    path: str
    users: tuple[str, ...]


# What this module calls each name, in an import from it or by a function below.
NAMES = {
    # Compilers and graphs.
    "OpOverload": PrivateName("torch._ops.OpOverload", ("encoders.traced", "exporters.torchscript")),
    "aot_compile": PrivateName("torch._inductor.aot_compile", ("exporters.aotinductor",)),
    "aoti_load_package": PrivateName(
        "torch._inductor.aoti_load_package", ("artifacts.sessions.aotinductor",)
    ),
    "package_aoti": PrivateName("torch._inductor.package.package.package_aoti", ("exporters.aotinductor",)),
    "trace": PrivateName("torch.fx.experimental.proxy_tensor.make_fx", ("encoders.traced",)),
    # Operators.
    "flash_attention": PrivateName(
        "torch.ops.aten._scaled_dot_product_flash_attention_for_cpu", ("encoders.attention",)
    ),
    "flash_attention_backward": PrivateName(
        "torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward", ("encoders.attention",)
    ),
    "softmax_backward": PrivateName(
        "torch.ops.aten._softmax_backward_data",
        ("encoders.attention", "encoders.vit", "exporters.onnx.translations"),
    ),
    "unsafe_view": PrivateName("torch.ops.aten._unsafe_view", ("encoders.traced",)),
    "reshape_alias": PrivateName("torch.ops.aten._reshape_alias", ("encoders.traced",)),
    "onednn_pack": PrivateName("torch.ops.mkldnn._reorder_linear_weight", ("encoders.linear",)),
    "onednn_linear": PrivateName("torch.ops.mkldnn._linear_pointwise", ("encoders.linear",)),
    "mkl_pack": PrivateName("torch.ops.mkl._mkl_reorder_linear_weight", ("encoders.linear",)),
    "mkl_linear": PrivateName("torch.ops.mkl._mkl_linear", ("encoders.linear",)),
    # What a CPU can do.
    "has_bf16": PrivateName("torch.ops.mkldnn._is_mkldnn_bf16_supported", ("defence.precision",)),
    "has_fp16": PrivateName("torch.ops.mkldnn._is_mkldnn_fp16_supported", ("defence.precision",)),
    "has_amx": PrivateName("torch.cpu._is_amx_tile_supported", ("bench.environment",)),
    # Modules and tensors.
    "AttentionOutput": PrivateName(
        "torch.nn.modules.linear.NonDynamicallyQuantizableLinear", ("encoders.vit",)
    ),
    "forward_hooks": PrivateName("torch.nn.Module._forward_hooks", ("encoders.vit",)),
    "forward_pre_hooks": PrivateName("torch.nn.Module._forward_pre_hooks", ("encoders.vit",)),
    "parts_of": PrivateName("torch.nn.Module._parameters", ("models.weights",)),
    "version_of": PrivateName(
        "torch.Tensor._version", ("models.class_weights", "models.fingerprint", "models.weights")
    ),
}


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = find(name)
    return value


def find(name: str) -> Any:
    """What one of NAMES stands for. Raises ImportError where this PyTorch lacks it."""
    path, users = NAMES[name]
    _, *parts, last = path.split(".")
    try:
        owner: Any = torch
        for part in parts:
            if not hasattr(owner, part):
                importlib.import_module(f"{owner.__name__}.{part}")
            owner = getattr(owner, part)
        return getattr(owner, last)
    except (AttributeError, ImportError) as error:
        by = ", ".join(f"clipfast.{user}" for user in users)
        raise ImportError(f"torch {torch.__version__} has no {path}, which {by} uses") from error


def trace(
    function: Callable[..., Any],
    inputs: tuple[Tensor, ...],
    decompositions: Mapping[Any, Callable[..., Any]],
) -> fx.GraphModule:
    """function(*inputs) as a graph of aten operators. What is in the inputs is not read; weights are real."""
    make_fx = find("trace")
    run = make_fx(
        function, tracing_mode="fake", _allow_non_fake_inputs=True, decomposition_table=decompositions
    )
    return run(*inputs)


def forward_hooks(module: nn.Module) -> Mapping[int, Callable[..., Any]]:
    """What runs after a module's forward pass."""
    return module._forward_hooks


def forward_pre_hooks(module: nn.Module) -> Mapping[int, Callable[..., Any]]:
    """What runs before a module's forward pass."""
    return module._forward_pre_hooks


def parts_of(module: nn.Module) -> tuple[Mapping[str, Any], ...]:
    """A module's own parameters, buffers and children, by name: without the walk that `parameters()` is."""
    return module._parameters, module._buffers, module._modules


def version_of(tensor: Tensor) -> int:
    """How often a tensor was written to in place, other than through `.data`."""
    return tensor._version
