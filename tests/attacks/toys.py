"""Systems so small that attacks on them take no time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from clipfast.attacks.system import Answer, System

if TYPE_CHECKING:
    from art.estimators.classification import PyTorchClassifier

SIZE = 8


def toy_logits(classes: int = 10, seed: int = 0) -> nn.Module:
    """Pixels [N, 3, 8, 8] -> logits [N, classes], smooth and far from linear."""
    torch.manual_seed(seed)
    layers = nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 64), nn.Tanh(), nn.Linear(64, classes)
    logits = nn.Sequential(*layers).requires_grad_(False)
    logits[1].weight.mul_(8)
    logits[1].bias.copy_(-logits[1].weight.sum(dim=1) / 2)  # grey is the centre
    logits[3].weight.mul_(8)
    return logits


def toy_pixels(n: int, seed: int = 1) -> Tensor:
    return torch.rand(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def toy_batch(n: int = 64) -> tuple[nn.Module, Tensor, Tensor]:
    """Logits, pixels, and the labels that the first give the second."""
    logits, x = toy_logits(), toy_pixels(n)
    return logits, x, logits(x).argmax(dim=1)


def plain(logits: nn.Module) -> System:
    return System(name="plain", answer=lambda x, **_: Answer(logits(x)), attackable=logits)


def noisy(logits: nn.Module, size: float) -> System:
    """Normal noise on the pixels: from the seed for users, from torch's generator for attackers."""

    def answer(x: Tensor, *, seed: int, first_image: int = 0) -> Answer:
        generator = torch.Generator().manual_seed(seed + first_image)
        return Answer(logits(x + size * torch.randn(x.shape, generator=generator)))

    def attackable(x: Tensor) -> Tensor:
        return logits(x + size * torch.randn(x.shape))

    return System(name="noisy", answer=answer, attackable=attackable, randomised=True)


def accuracy(system: System, x: Tensor, labels: Tensor, seeds: int = 8) -> float:
    with torch.no_grad():
        rounds = range(seeds if system.randomised else 1)
        right = [system.answer(x, seed=1000 + s).logits.argmax(dim=1) == labels for s in rounds]
    return torch.stack(right).double().mean().item()


def toolbox(logits: nn.Module) -> PyTorchClassifier:
    """The logits as the Adversarial Robustness Toolbox takes them."""
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        model=logits,
        loss=nn.CrossEntropyLoss(),
        input_shape=(3, SIZE, SIZE),
        nb_classes=logits[-1].out_features,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
