"""The defended classifier as models of other attack libraries: ART, foolbox, AutoAttack.

ART comes with the extra `art` and foolbox with the extra `foolbox`; nothing else needs them. AutoAttack
comes from its repository: pip install git+https://github.com/fra31/auto-attack.
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

# What gradients go through: see `clipfast.defence.differentiable.DifferentiableDefence`.
GradientMode = Literal["bpda", "unrolled"]


class RandomisedDefenceWarning(UserWarning):
    """A classifier under attack is randomised or optimises at inference, which a library cannot see."""


class DefendedLogits(nn.Module):
    """Defended logits [N, C] of pixels float [N, 3, H, W] in [0, 1], with gradients: a plain callable.

    Args:
        classifier: The classifier under attack.
        mode: What gradients go through, as of `as_function`.
        samples: Draws of noise whose logits are averaged.

    Attributes:
        defence: The differentiable defence of one draw of noise.
        samples: Draws of noise whose logits are averaged.
        randomised: Whether answers depend on noise that is drawn. `repr` says it too.
        optimises_at_inference: Whether pictures may be countered by gradient steps. `repr` says it too.

    Raises:
        InputError: If the mode is not known.
    """

    def __init__(self, classifier: DefendedClassifier, mode: GradientMode, samples: int) -> None:
        super().__init__()
        self.defence = classifier.differentiable(mode)
        self.samples = samples
        self.randomised = classifier.config.is_randomised()
        self.optimises_at_inference = classifier.config.steps > 0 and not classifier.config.is_fixed
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Returns the mean logits [N, C] over the samples, of pixels float [N, 3, H, W] in [0, 1].

        Raises:
            InputError: If the pixels have another shape, dtype or range.
        """
        drawn = [self.defence(pixels) for _ in range(self.samples)]
        return drawn[0] if self.samples == 1 else torch.stack(drawn).mean(dim=0)

    def train(self, mode: bool = True) -> DefendedLogits:  # noqa: ARG002
        """Stays in eval mode, whatever is asked."""
        return super().train(False)

    def __repr__(self) -> str:
        return (
            f"DefendedLogits(mode={self.defence.mode!r}, samples={self.samples}, "
            f"randomised={self.randomised}, optimises_at_inference={self.optimises_at_inference})"
        )


def as_function(
    classifier: DefendedClassifier, *, mode: GradientMode = "bpda", samples: int = 1
) -> DefendedLogits:
    """Returns a plain function of pixels, as in `AutoAttack(as_function(c), version="rand", ...)`.

    Warns with RandomisedDefenceWarning if the classifier draws noise or optimises at inference.

    Args:
        classifier: The classifier under attack.
        mode: What gradients go through, see `clipfast.defence.differentiable.DifferentiableDefence`.
        samples: Draws of noise whose logits are averaged, at least 1. torch's generator draws them anew
            at each call.

    Returns:
        The function of pixels float [N, 3, H, W] in [0, 1] that gives logits [N, C]; it is
        differentiable.

    Raises:
        InputError: If the mode is not known, or `samples` is not as described.
    """
    return _logits(classifier, mode, samples)


def as_art(classifier: DefendedClassifier, *, mode: GradientMode = "bpda", samples: int = 1) -> Any:
    """Returns the Adversarial Robustness Toolbox's `PyTorchClassifier` over `as_function`.

    It takes pixels in [0, 1], channels first. Its loss is the cross-entropy. `estimator.model` tells whether
    the classifier is randomised and optimises at inference. Warns as `as_function` does.

    Args:
        classifier: The classifier under attack.
        mode: As of `as_function`.
        samples: As of `as_function`.

    Raises:
        InputError: If the mode is not known, or `samples` is not as described.
        ModuleNotFoundError: If a package is not installed; names the extra that has it.
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
    """Returns foolbox's `PyTorchModel` over `as_function`, in bounds (0, 1).

    Warns with RandomisedDefenceWarning if the classifier draws noise or optimises at inference.

    Args:
        classifier: The classifier under attack.
        mode: As of `as_function`.
        samples: As of `as_function`.

    Raises:
        InputError: If the mode is not known, or `samples` is not as described.
        ModuleNotFoundError: If a package is not installed; names the extra that has it.
    """
    try:
        import foolbox  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise names_extra("a foolbox model", error) from error
    return foolbox.PyTorchModel(_logits(classifier, mode, samples), bounds=(0, 1), device=classifier.device)


def _logits(classifier: DefendedClassifier, mode: GradientMode, samples: int) -> DefendedLogits:
    if mode not in ("bpda", "unrolled"):
        raise InputError(f"mode must be 'bpda' or 'unrolled', got {mode!r}")
    check_counts(samples=samples)
    logits = DefendedLogits(classifier, mode, samples)
    does = {"draws noise": logits.randomised, "optimises at inference": logits.optimises_at_inference}
    if any(does.values()):
        samples_too = "with several samples of noise (EOT; AutoAttack's version='rand') and "
        warnings.warn(
            f"this classifier {' and '.join(what for what, is_so in does.items() if is_so)}: attack it "
            f"{samples_too if logits.randomised else ''}adaptively; the figure of a standard attack alone "
            "says too much for it",
            RandomisedDefenceWarning,
            stacklevel=3,
        )
    return logits
