"""Which form of the operators runs: naive, Triton or C++."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..errors import InputError
from ..measurement.trials import Trial, kept
from . import native, triton_form
from .registry import Kernel, Operator

__all__ = ["Implementation", "Implementations", "form", "implementations"]

Implementation = Literal["auto", "naive", "triton", "cpp"]
_VARIABLE = "CLIPFAST_IMPL"
_FASTEST = {"cpu": "cpp", "cuda": "triton"}

_log = logging.getLogger(__name__)
_told: set[tuple[str, str]] = set()


def form(operator: Operator, implementation: Implementation, *tensors: Tensor | None) -> Any:
    """Returns an operator's form for some tensors; it takes the arguments of the operator's schema.

    Args:
        operator: The operator.
        implementation: A form by name, or "auto": the form that CLIPFAST_IMPL names, else the fastest
            that is available. "auto" is the naive form for float64, and if a gradient is asked for.
        tensors: The tensors that decide, at least one; None is left out.

    Raises:
        InputError: If the name is unknown, or a named form is not available for these tensors or this
            operator.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    name = _choose(
        implementation,
        given[0].device.type,
        any(tensor.dtype == torch.float64 for tensor in given),
        torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given),
        operator.kernels,
    )
    if name == "naive":
        return operator.naive
    if name == "triton" and given[0].device.type == "cpu":  # Triton's interpreter
        return triton_form.launcher(operator)
    return getattr(torch.ops.clipfast, operator.name)


@torch.compiler.assume_constant_result
def _choose(
    implementation: str,
    device: str,
    float64: bool,
    gradient: bool,
    kernels: tuple[Kernel, ...] = get_args(Kernel),
) -> str:
    asked = (os.environ.get(_VARIABLE) or "auto") if implementation == "auto" else implementation
    if asked not in get_args(Implementation):
        source = _VARIABLE if implementation == "auto" else "implementation"
        raise InputError(f"{source} must be one of {get_args(Implementation)}, got {asked!r}")
    name = _FASTEST.get(device, "naive") if asked == "auto" else asked
    if name == "naive":
        return name
    reason = _why_not(name, device)
    if float64:
        reason = "it computes in float32, and was given float64"
    if gradient:
        reason = "it has no gradient, and one is asked for"
    if name not in kernels:
        reason = "this operator has no such form"
    if reason is None:
        _tell_once(logging.INFO, device, name, f"the {name} operators run on {device}")
        return name
    if asked != "auto":
        by = f" (by {_VARIABLE})" if implementation == "auto" else ""
        raise InputError(f"implementation {name!r}{by} is not available on {device}: {reason}")
    if name in kernels and not (float64 or gradient):
        _tell_once(
            logging.WARNING, device, "naive", f"the naive operators run on {device}; not {name}: {reason}"
        )
    return "naive"


def _why_not(name: str, device: str) -> str | None:
    """Why a form does not run on a device, or None; makes it ready where it does."""
    if name == "triton":
        return triton_form.why_not(device)
    return native.why_not() if device == "cpu" else "it runs on a CPU"


def _tell_once(level: int, device: str, name: str, message: str) -> None:
    if (device, name) not in _told:
        _told.add((device, name))
        _log.log(level, message)


@dataclass(frozen=True)
class Implementations:
    """Which forms of the operators run here.

    Attributes:
        active: The form that runs on each kind of device here.
        unavailable: Why another form does not run here, by its name.
        trials: What was tried so far of the engine's products, attention and batches: the form that was
            chosen and the seconds of each, by what was tried. See `clipfast.measurement.trials`.
    """

    active: dict[str, str]
    unavailable: dict[str, str]
    trials: dict[str, Trial]


def implementations() -> Implementations:
    """Returns which form of the operators runs on which device, and why others do not.

    Raises:
        InputError: If CLIPFAST_IMPL names a form that is unknown or available on no device.
    """
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    unavailable = {}
    for device, name in _FASTEST.items():
        if all(_why_not(name, other) for other in devices):
            unavailable[name] = _why_not(name, device if device in devices else "cpu") or ""
    active, refused = {}, None
    for device in devices:
        try:
            active[device] = _choose("auto", device, False, False)
        except InputError as error:  # the named form may run on another device
            refused = error
    if refused is not None and not active:
        raise refused
    return Implementations(active, unavailable, kept())
