"""What an attacker maximises, image by image: logits [n, C] and labels int64 [n] -> [n]."""

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
LossFunction = Callable[[Tensor, Tensor], Tensor]
RowLoss = Callable[[Tensor, Tensor], Tensor]  # logits [n, C] of the images rows [n] among all -> [n]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log softmax(z)_y."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """max_(i != y) z_i - z_y (Carlini and Wagner, S&P 2017, f_6): above 0 where an image is misclassified."""
    return _others(logits, labels).amax(dim=1) - _of(logits, labels)


def difference_of_logits_ratio(logits: Tensor, labels: Tensor) -> Tensor:
    """`margin` over z_(1) - z_(3), sorted (DLR; Croce and Hein, ICML 2020, equation 6).

    It does not change when the logits are scaled or shifted. Raises InputError for fewer than 3 classes.
    """
    if logits.shape[1] < 3:
        raise InputError(f"expected at least 3 classes for the DLR loss, got {logits.shape[1]}")
    top = logits.topk(3, dim=1).values
    return margin(logits, labels) / (top[:, 0] - top[:, 2] + 1e-12)


def loss_function(name: Loss) -> LossFunction:
    """A loss by its name. Raises InputError for another name."""
    known: dict[Loss, LossFunction] = {
        "cross-entropy": cross_entropy,
        "margin": margin,
        "dlr": difference_of_logits_ratio,
    }
    if name not in known:
        raise InputError(f"loss must be one of {get_args(Loss)}, got {name!r}")
    return known[name]


def by_label(loss: LossFunction, labels: Tensor) -> RowLoss:
    """A loss of all images' labels, int64 [N]."""
    return lambda logits, rows: loss(logits, labels[rows])


def targeted_margin(labels: Tensor, goals: Tensor) -> RowLoss:
    """z_goal - z_y, of all images' labels and wrong classes to move to, int64 [N]."""
    return lambda logits, rows: _of(logits, goals[rows]) - _of(logits, labels[rows])


def _of(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.gather(1, labels[:, None])[:, 0]


def _others(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.masked_fill(F.one_hot(labels, logits.shape[1]).bool(), -torch.inf)
