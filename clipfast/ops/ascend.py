"""One step of the counterattack."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..config import Norm
from ..errors import InputError
from .arithmetic import into_bounds
from .checks import EXACT, LOW, check_norm, check_tensor
from .dispatch import Implementation, form
from .registry import declare

__all__ = ["ascend"]


def ascend(
    x: Tensor,
    d: Tensor,
    gradient: Tensor,
    total: Tensor | None = None,
    scale: Tensor | None = None,
    *,
    weight_before: float,
    weight: float,
    eps: float,
    step_size: float,
    norm: Norm = "linf",
    last: bool = False,
    implementation: Implementation = "auto",
) -> tuple[Tensor, Tensor]:
    """Takes one step of the counterattack, from d_(k-1) to d_k (TTC, arXiv 2503.03613, section 3).

    In l-inf, d + step_size * sign(g) is clamped to [-eps, eps]. In l2, d + step_size * g / (||g|| +
    1e-10) is scaled into the ball of radius eps. Then d is moved so that x + d is in [0, 1].

    NaN in any of x, d and gradient gives NaN in the result: sign(NaN) = 0 would switch the defence off
    silently.

    Args:
        x: Pixels in [0, 1], float32 [B, ...], in any layout.
        d: The perturbation d_(k-1), in [0, 1] pixel units, float32, shaped as x.
        gradient: The gradient of the objective, such as ||f(x + d) - f(x)||^2, divided by `scale`; shaped
            as x, float32, float16 or bfloat16.
        total: The sum of weighted steps up to d_(k-1), float32, shaped as x. None at the first step,
            where it is weight_before * d_0.
        scale: Positive numbers, float32 [B]. Needed for norm "l2" alone.
        weight_before: Weight of d_0, read at the first step.
        weight: Weight of d_k.
        eps: Budget, in [0, 1] pixel units.
        step_size: Length of the step, in [0, 1] pixel units.
        norm: "linf" or "l2".
        last: Whether d_k itself is not needed, and comes back empty.
        implementation: Of the operator, see `clipfast.ops`.

    Returns:
        d_k and the sum of weighted steps up to it, float32, both shaped as x.

    Raises:
        InputError: If a tensor does not fit, the norm is unknown, "l2" comes without a scale, or a named
            implementation is not available.
    """
    _check(x, d, gradient, total, scale, norm)
    l2 = norm == "l2"
    scale = scale if l2 else None
    run = form(_OPERATOR, implementation, x, d, gradient, total, scale)
    return run(x, d, gradient, total, scale, weight_before, weight, eps, step_size, l2, last)


def _check(
    x: Tensor, d: Tensor, gradient: Tensor, total: Tensor | None, scale: Tensor | None, norm: str
) -> None:
    check_tensor("x", x, None, EXACT, x)
    if x.ndim < 2:
        raise InputError(f"ascend: expected x [B, ...], got {list(x.shape)}")
    shape = list(x.shape)
    check_tensor("d", d, shape, (x.dtype,), x)
    check_tensor("gradient", gradient, shape, (x.dtype, *LOW), x)
    if total is not None:
        check_tensor("total", total, shape, (x.dtype,), x)
    check_norm("ascend", norm)
    if norm == "l2":
        if scale is None:
            raise InputError("ascend: expected the gradient's scale for norm 'l2', got none")
        check_tensor("scale", scale, shape[:1], (x.dtype,), x)


def _naive(
    x: Tensor,
    d: Tensor,
    gradient: Tensor,
    total: Tensor | None,
    scale: Tensor | None,
    weight_before: float,
    weight: float,
    eps: float,
    step_size: float,
    l2: bool,
    last: bool,
) -> tuple[Tensor, Tensor]:
    g = gradient.to(d.dtype)
    if total is None:
        total = weight_before * d
    if l2:
        assert scale is not None
        length = _length(g)
        length = torch.where(length.isinf(), torch.nan, length)  # g / inf = 0 would switch it off, too
        d = d + step_size * g / (length + (1e-10 / scale).reshape(_per_image(d)))
        d = d * (eps / _length(d).clamp(min=torch.finfo(d.dtype).tiny)).clamp(max=1.0)
    else:
        # sign(NaN) is 0, which would switch the defence off silently.
        d = (d + step_size * torch.where(g.isnan(), g, g.sign())).clamp(-eps, eps)
    d = into_bounds(d, x)
    return d.new_empty(0) if last else d, total + weight * d


def _length(d: Tensor) -> Tensor:
    """The l2 norm of each image, shaped to broadcast over it."""
    return d.flatten(1).norm(dim=1).reshape(_per_image(d))


def _per_image(d: Tensor) -> tuple[int, ...]:
    return (-1, *(1 for _ in d.shape[1:]))


def _fake(_x: Tensor, d: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    *_, last = others
    return d.new_empty(0) if last else torch.empty_like(d), torch.empty_like(d)


# l2 is False for l-inf.
_OPERATOR = declare(
    "ascend(Tensor x, Tensor d, Tensor gradient, Tensor? total, Tensor? scale, float weight_before, "
    "float weight, float eps, float step_size, bool l2, bool last) -> (Tensor d, Tensor total)",
    fake=_fake,
    naive=_naive,
    kernels=("triton", "cpp"),
)
