"""What an attacker maximises, image by image: functions of logits [n, C] and labels int64 [n] -> [n]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError

__all__ = [
    "Loss",
    "LossFunction",
    "RowLoss",
    "by_label",
    "cross_entropy",
    "difference_of_logits_ratio",
    "loss_function",
    "margin",
    "targeted_margin",
]

Loss = Literal["cross-entropy", "margin", "dlr"]
# logits [n, C] and labels int64 [n] -> [n], higher is better for the attacker.
LossFunction = Callable[[Tensor, Tensor], Tensor]
# logits [n, C] and the rows int64 [n] of their images among all -> [n].
RowLoss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the cross-entropy -log softmax(z)_y.

    Args:
        logits: z, float [n, C].
        labels: y, int64 [n].

    Returns:
        float [n].
    """
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns max_(i != y) z_i - z_y, which is above 0 where an image is misclassified.

    The formula is f_6 of Carlini and Wagner (S&P 2017).

    Args:
        logits: z, float [n, C].
        labels: y, int64 [n].

    Returns:
        float [n].
    """
    return _others(logits, labels).amax(dim=1) - _of(logits, labels)


def difference_of_logits_ratio(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the DLR loss: `margin` over z_(1) - z_(3), the largest and the third largest logit.

    The formula is equation 6 of Croce and Hein (ICML 2020), with 1e-12 added to the denominator. It does
    not change when the logits are shifted. Apart from the 1e-12, it does not change when they are scaled
    either.

    Args:
        logits: z, float [n, C].
        labels: y, int64 [n].

    Returns:
        float [n].

    Raises:
        InputError: If there are fewer than 3 classes.
    """
    if logits.shape[1] < 3:
        raise InputError(f"expected at least 3 classes for the DLR loss, got {logits.shape[1]}")
    top = logits.topk(3, dim=1).values
    return margin(logits, labels) / (top[:, 0] - top[:, 2] + 1e-12)


def loss_function(name: Loss) -> LossFunction:
    """Returns a loss by its name.

    Raises:
        InputError: If the name is not one of `Loss`.
    """
    known: dict[Loss, LossFunction] = {
        "cross-entropy": cross_entropy,
        "margin": margin,
        "dlr": difference_of_logits_ratio,
    }
    if name not in known:
        raise InputError(f"loss must be one of {get_args(Loss)}, got {name!r}")
    return known[name]


def by_label(loss: LossFunction, labels: Tensor) -> RowLoss:
    """Binds a loss to the labels of all images, so that it can be asked for some of their rows.

    Args:
        loss: The loss to bind.
        labels: int64 [N], of all images.
    """
    return lambda logits, rows: loss(logits, labels[rows])


def targeted_margin(labels: Tensor, goals: Tensor) -> RowLoss:
    """Returns the loss z_goal - z_y, which grows as an image moves from its label to another class.

    Args:
        labels: y, int64 [N], of all images.
        goals: int64 [N], the wrong class that each image moves to.
    """
    return lambda logits, rows: _of(logits, goals[rows]) - _of(logits, labels[rows])


def _of(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.gather(1, labels[:, None])[:, 0]


def _others(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.masked_fill(F.one_hot(labels, logits.shape[1]).bool(), -torch.inf)
