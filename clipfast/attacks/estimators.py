"""What ART's attacks see of a system, and what is remembered of it, so that nothing is asked twice."""

# ART calls these with more arguments than are read here.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from art.attacks.evasion import AutoProjectedGradientDescent, SquareAttack
from art.estimators.classification import PyTorchClassifier
from numpy.typing import NDArray
from torch import Tensor, nn

from ..inputs.draws import torch_seed
from .ascent import Ascended, Look, Looked, mean_look
from .attack import Tick
from .eps_ball import check_labels
from .system import System

__all__ = ["Asked", "AutoProjectedGradientDescent", "SquareAttack", "Watched"]


class _Estimator(PyTorchClassifier):
    """A classifier in ART's sense of which only what the two attacks call is there."""

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        super().__init__(
            model=nn.Identity(),
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(pixels.shape[1:]),
            nb_classes=max(2, int(labels.max()) + 1),
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )
        self._labels, self._on = labels, pixels.device

    def _tensor(self, x: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(x, np.float32)).to(self._on)


class Watched(_Estimator):
    """The n images of one APGD ascent: the loss and the gradient, each look made once, and the best pixels.

    ART goes on with an image that is broken until its end; here it is not looked at any more.
    streak, most: as of `ascend`.
    """

    def __init__(
        self,
        look: Look,
        pixels: Tensor,
        labels: Tensor,
        *,
        samples: int,
        streak: int,
        randomised: bool,
        most: int,
        tick: Tick,
    ) -> None:
        super().__init__(pixels, labels)
        self._look, self._samples, self._streak, self._tick = look, samples, streak, tick
        self._randomised, self._most, self._losses = randomised, most, 0
        n = len(pixels)
        self._seen = torch.full_like(pixels, torch.nan)
        self._now = Looked(
            torch.zeros_like(pixels), pixels.new_zeros(n), torch.zeros(n, dtype=torch.bool, device=self._on)
        )
        self._run = torch.zeros(n, dtype=torch.int64, device=self._on)
        self._best = Ascended(pixels.clone(), self._now.broken.clone(), pixels.new_full((n,), -torch.inf))

    def ascended(self) -> Ascended:
        """The pixels of each image's highest loss, or of where it was broken."""
        return self._best

    def predict(self, x: NDArray[Any], **_: Any) -> NDArray[np.float32]:
        """Not asked of the system: all that ART reads from it is who is still robust."""
        logits = np.zeros((len(x), self.nb_classes), np.float32)
        if len(x) == len(self._labels):
            shown = torch.where(self._best.broken, (self._labels + 1) % self.nb_classes, self._labels)
            np.put_along_axis(logits, shown.cpu().numpy()[:, None], 2, axis=1)
        return logits

    def compute_loss(self, x: NDArray[Any], y: Any, **_: Any) -> NDArray[np.float32]:  # noqa: ARG002
        """The mean loss of each image: float32 [n]."""
        self._losses += 1
        # ART asks first at its start, where it has just had the gradient, and from then on after each step.
        return self._at(x, anew=self._randomised and self._losses > 1).loss.cpu().numpy().copy()

    def loss_gradient(self, x: NDArray[Any], y: Any, **_: Any) -> NDArray[np.float32]:  # noqa: ARG002
        """The mean gradient of the loss: float32 [n, 3, H, W]."""
        return self._at(x).gradient.cpu().numpy().copy()

    def _at(self, x: NDArray[Any], *, anew: bool = False) -> Looked:
        pixels, best = self._tensor(x), self._best
        changed = (pixels != self._seen).flatten(1).any(dim=1) | anew
        changed &= ~best.broken
        rows = changed.nonzero().flatten()
        if len(rows):
            looked = mean_look(self._look, pixels[rows], rows, samples=self._samples, most=self._most)
            self._seen[rows] = pixels[rows]
            for now, new in zip(self._now, looked, strict=True):
                now[rows] = new
            self._run[rows] = (self._run[rows] + 1) * looked.broken
            if self._streak:
                best.broken[rows] = self._run[rows] >= self._streak
            better = (looked.loss > best.loss[rows]) | best.broken[rows]
            best.pixels[rows[better]], best.loss[rows[better]] = pixels[rows[better]], looked.loss[better]
            self._tick()
        return self._now


class Asked(_Estimator):
    """A system's answers to Square, each by fresh noise, and remembered by an image's pixels."""

    def __init__(self, system: System, pixels: Tensor, labels: Tensor, *, tick: Tick) -> None:
        super().__init__(pixels, labels)
        self._system, self._tick = system, tick
        self._known: dict[bytes, NDArray[np.float32]] = {}

    def predict(self, x: NDArray[Any], **_: Any) -> NDArray[np.float32]:
        """The system's logits: float32 [n, C]."""
        names = [hashlib.sha256(image.tobytes()).digest() for image in np.ascontiguousarray(x, np.float32)]
        unknown = [row for row, name in enumerate(names) if name not in self._known]
        if unknown:
            with torch.no_grad():
                logits = self._system.answer(self._tensor(x[unknown]), seed=torch_seed()).logits
            check_labels(self._labels, logits)
            for row, answer in zip(unknown, logits.float().cpu().numpy(), strict=True):
                self._known[names[row]] = answer
            self._tick()
        return np.stack([self._known[name] for name in names])

    def broken(self, attacked: NDArray[np.float32]) -> Tensor:
        """Which of the images were answered wrongly: bool [N]."""
        return torch.from_numpy(self.predict(attacked)).argmax(dim=1).to(self._on) != self._labels
