"""The defended classifier in the words of other attack libraries: ART, foolbox, AutoAttack.

ART comes with the extra `art`, foolbox with the extra `foolbox`, which nothing else needs, and AutoAttack
from its repository: pip install git+https://github.com/fra31/auto-attack.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..attacks.attack import check_counts
from ..classifier import DefendedClassifier
from ..errors import InputError, names_extra

__all__ = ["DefendedLogits", "RandomisedDefenceWarning", "as_art", "as_foolbox", "as_function"]

GradientMode = Literal["bpda", "unrolled"]

_NOTE = (
    "draws noise and optimises at inference: attack it with several samples of noise (EOT; AutoAttack's "
    "version='rand') and adaptively; the figure of a standard attack alone says too much for it"
)


class RandomisedDefenceWarning(UserWarning):
    """A classifier under attack is randomised and optimises at inference, which a library cannot see."""


class DefendedLogits(nn.Module):
    """Defended logits [N, C] of pixels float [N, 3, H, W] in [0, 1], with gradients: a plain callable.

    randomised, optimises_at_inference: what it says of itself, in `repr` too. The rest as of `as_function`.
    """

    randomised = True
    optimises_at_inference = True

    def __init__(self, classifier: DefendedClassifier, mode: GradientMode, samples: int) -> None:
        super().__init__()
        self.defence = classifier.differentiable(mode)
        self.samples = samples
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """The mean logits over the samples."""
        drawn = [self.defence(pixels) for _ in range(self.samples)]
        return drawn[0] if self.samples == 1 else torch.stack(drawn).mean(dim=0)

    def train(self, mode: bool = True) -> DefendedLogits:  # noqa: ARG002
        """Stays in eval mode."""
        return super().train(False)

    def __repr__(self) -> str:
        return (
            f"DefendedLogits(mode={self.defence.mode!r}, samples={self.samples}, randomised=True, "
            "optimises_at_inference=True)"
        )


def as_function(
    classifier: DefendedClassifier, *, mode: GradientMode = "bpda", samples: int = 1
) -> DefendedLogits:
    """A plain function of pixels, as AutoAttack takes it: `AutoAttack(as_function(c), version="rand", ...)`.

    mode: through what gradients go, see `clipfast.defence.differentiable.DifferentiableDefence`.
    samples: draws of noise whose logits are averaged; torch's generator draws them anew at each call.
    Warns with RandomisedDefenceWarning. Raises InputError for another mode and samples below 1.
    """
    return _logits(classifier, mode, samples)


def as_art(classifier: DefendedClassifier, *, mode: GradientMode = "bpda", samples: int = 1) -> Any:
    """An estimator of the Adversarial Robustness Toolbox: its `PyTorchClassifier` over `as_function`.

    Pixels in [0, 1], channels first; the loss is the cross-entropy. `estimator.model` says what it is.
    """
    try:
        from art.estimators.classification import PyTorchClassifier
    except ModuleNotFoundError as error:
        raise names_extra("an ART estimator", error) from error
    return PyTorchClassifier(
        model=_logits(classifier, mode, samples),
        loss=nn.CrossEntropyLoss(),
        input_shape=(3, *classifier.image_size),
        nb_classes=len(classifier.classnames),
        clip_values=(0.0, 1.0),
        device_type="gpu" if classifier.device.type == "cuda" else "cpu",
    )


def as_foolbox(classifier: DefendedClassifier, *, mode: GradientMode = "bpda", samples: int = 1) -> Any:
    """A model of foolbox: its `PyTorchModel` over `as_function`, in bounds (0, 1)."""
    try:
        import foolbox  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise names_extra("a foolbox model", error) from error
    return foolbox.PyTorchModel(_logits(classifier, mode, samples), bounds=(0, 1), device=classifier.device)


def _logits(classifier: DefendedClassifier, mode: GradientMode, samples: int) -> DefendedLogits:
    if mode not in ("bpda", "unrolled"):
        raise InputError(f"mode must be 'bpda' or 'unrolled', got {mode!r}")
    check_counts(samples=samples)
    warnings.warn(f"this classifier {_NOTE}", RandomisedDefenceWarning, stacklevel=3)
    return DefendedLogits(classifier, mode, samples)
