"""All the private names of PyTorch that clipfast uses; a new release of PyTorch may lack any of them.

Each is looked up when it is first asked for. If this PyTorch lacks it, an ImportError names it and says
which modules use it. `tests/test_torch_private.py` looks for all of them at once.
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
    """A private name of PyTorch, and who uses it.

    Attributes:
        path: Where the name is in torch. For an attribute of instances, the class comes before it.
        users: The modules of clipfast that use it.
    """

    path: str
    users: tuple[str, ...]


# By the name that this module gives to each: to be imported from it, or wrapped by a function below.
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
    "onednn_linear": PrivateName(
        "torch.ops.mkldnn._linear_pointwise", ("encoders.linear", "exporters.aotinductor")
    ),
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
    """Returns what one of NAMES stands for.

    Raises:
        ImportError: If this PyTorch lacks it.
        KeyError: If the name is not in NAMES.
    """
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
    """Traces a function as a graph of aten operators.

    The values of the inputs are not read: they are traced as fake tensors. Weights that the function
    closes over stay real ones.

    Args:
        function: A function of tensors.
        inputs: Tensors of the shapes and dtypes to trace with.
        decompositions: Functions that replace operators in the trace, by operator.

    Raises:
        ImportError: If this PyTorch lacks the tracer.
    """
    make_fx = find("trace")
    run = make_fx(
        function, tracing_mode="fake", _allow_non_fake_inputs=True, decomposition_table=decompositions
    )
    return run(*inputs)


def forward_hooks(module: nn.Module) -> Mapping[int, Callable[..., Any]]:
    """Returns the functions that run after a module's forward pass, by their number."""
    return module._forward_hooks


def forward_pre_hooks(module: nn.Module) -> Mapping[int, Callable[..., Any]]:
    """Returns the functions that run before a module's forward pass, by their number."""
    return module._forward_pre_hooks


def parts_of(module: nn.Module) -> tuple[Mapping[str, Any], ...]:
    """Returns a module's own parameters, buffers and children, each by name.

    Unlike `parameters()`, it does not walk through the children.
    """
    return module._parameters, module._buffers, module._modules


def version_of(tensor: Tensor) -> int:
    """Returns how often a tensor was written to in place, other than through `.data`."""
    return tensor._version
