"""A system that counts what it is asked."""

from __future__ import annotations

from torch import Tensor, nn

from clipfast.attacks.system import Answer, System


def counting(logits: nn.Module, *, randomised: bool = False) -> tuple[System, list[int]]:
    """The system and its counts: images with gradients, images answered."""
    counts = [0, 0]

    def attackable(pixels: Tensor) -> Tensor:
        counts[0] += len(pixels)
        return logits(pixels)

    def answer(pixels: Tensor, **_: object) -> Answer:
        counts[1] += len(pixels)
        return Answer(logits(pixels))

    return System(name="counting", answer=answer, attackable=attackable, randomised=randomised), counts
