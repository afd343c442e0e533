"""The gate: each image's drift under noise, and whether it is countered."""

from __future__ import annotations

import torch
from torch import Tensor

from .arithmetic import exact_dtype
from .checks import EXACT, check_embeddings, check_tensor
from .dispatch import Implementation, form
from .registry import declare

__all__ = ["drift_gate"]


def drift_gate(
    clean: Tensor, noisy: Tensor, threshold: Tensor, *, implementation: Implementation = "auto"
) -> tuple[Tensor, Tensor]:
    """Computes tau = ||f(x + d0) - f(x)|| / ||f(x)|| (TTC, arXiv 2503.03613, section 3), and gates by it.

    Sums are float32. NaN is below no threshold.

    Args:
        clean: f(x), [B, D], float16, bfloat16 or float32.
        noisy: f(x + d0), [B, D], of the same dtype.
        threshold: float32, a scalar or one for each image, [B].
        implementation: Of the operator, see `clipfast.ops`.

    Returns:
        tau, float32 [B], and whether tau < threshold, bool [B].

    Raises:
        InputError: If a tensor does not fit, or a named implementation is not available.
    """
    check_embeddings("clean", clean)
    check_tensor("noisy", noisy, list(clean.shape), (clean.dtype,), clean)
    exact = EXACT if clean.dtype == torch.float64 else (torch.float32,)
    one_each = isinstance(threshold, Tensor) and threshold.ndim > 0
    check_tensor("threshold", threshold, [clean.shape[0]] if one_each else [], exact, clean)
    return form(_OPERATOR, implementation, clean, noisy)(clean, noisy, threshold)


def _naive(clean: Tensor, noisy: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    exact = exact_dtype(clean)
    tau = (noisy.to(exact) - clean.to(exact)).norm(dim=1) / clean.to(exact).norm(dim=1)
    return tau, tau < threshold


def _fake(clean: Tensor, _noisy: Tensor, _threshold: Tensor) -> tuple[Tensor, Tensor]:
    tau = clean.new_empty(clean.shape[0], dtype=exact_dtype(clean))
    return tau, tau.new_empty(tau.shape, dtype=torch.bool)


_OPERATOR = declare(
    "drift_gate(Tensor clean, Tensor noisy, Tensor threshold) -> (Tensor tau, Tensor countered)",
    fake=_fake,
    naive=_naive,
    kernels=("triton", "cpp"),
)
