"""The two sides of a verification: an exported file and the eager reference, both over torch tensors."""

from __future__ import annotations

import dataclasses
import hashlib
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..artifacts.classifier import ArtifactClassifier
from ..classifier import DefendedClassifier
from ..inputs.draws import draw_noise, seeded
from ..reference import Counterattacked, counterattack_early_return
from ..reference_stages import answer_embedding, passed_early, passed_embedding

__all__ = ["MOST", "FileAnswer", "Reference", "answers_of", "batch_sizes", "takes"]

MOST = 32  # images at a time, which bounds the memory
_KEPT = 16  # answers of the reference: a batch under three thresholds, or twelve pictures by many draws


class FileAnswer(NamedTuple):
    """What a file answers for N images, on their device."""

    logits: Tensor  # [N, C]
    undefended_logits: Tensor | None  # [N, C], where it gives them
    drift: Tensor  # [N]
    countered: Tensor  # bool [N]
    delta: Tensor | None  # [N, 3, H, W], where it gives it
    embedding: Tensor | None  # [N, D], where it gives it


def takes(artifact: ArtifactClassifier, name: str) -> bool:
    """Whether a file has an input of this name."""
    return any(port.name == name for port in artifact.metadata.ports[0])


def batch_sizes(batch: int | None) -> tuple[int, ...]:
    """The sizes to run a file of this batch in: one alone where every batch is cut into single images."""
    return (1,) if batch == 1 else (1, 3, MOST)


def answers_of(
    artifact: ArtifactClassifier,
    pixels: Tensor,
    size: int,
    *,
    noise: Tensor | None = None,
    tau_threshold: float | None = None,
) -> FileAnswer:
    """A file's answer for pixels of the type that it takes, [N, 3, H, W], run `size` images at a time."""
    given = None if noise is None else noise.cpu().numpy()
    gives = {port.name for port in artifact.metadata.ports[1]}
    pictures, device = pixels.cpu().numpy(), pixels.device
    predictions = [
        artifact.predict(
            pictures[i : i + size],
            noise=None if given is None else given[i : i + size],
            tau_threshold=tau_threshold,
            with_delta="delta" in gives,
        )
        for i in range(0, len(pictures), size)
    ]
    joined = {name: torch.cat([torch.from_numpy(getattr(p, name)) for p in predictions]) for name in gives}
    missing = dict.fromkeys(FileAnswer._fields)
    return FileAnswer(**{**missing, **{name: tensor.to(device) for name, tensor in joined.items()}})


class Reference:
    """`clipfast.reference` with a classifier's towers, class weights and settings.

    Tensors are on the classifier's device; pixels float32 [N, 3, H, W] in [0, 1]. It keeps its last answers,
    as each runtime of a file is asked the same.
    """

    def __init__(self, classifier: DefendedClassifier) -> None:
        self.config = classifier.config
        self._classifier = classifier
        self._kept: dict[bytes, Counterattacked] = {}

    def noise(self, first_image: int, pixels: Tensor) -> Tensor:
        """Noise shaped as the pixels; image i's is that of the index first_image + i."""
        draw = seeded(0, first_image, len(pixels), pixels.device)
        return draw_noise(draw, pixels.shape, self.config)

    def counter(self, pixels: Tensor, noise: Tensor, tau_threshold: float) -> Counterattacked:
        """What the reference answers with this threshold in the place of the config's."""
        key = _digest(pixels, noise, torch.tensor(tau_threshold))
        if key not in self._kept:
            if len(self._kept) == _KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = counterattack_early_return(
                self._classifier.image_tower,
                pixels,
                noise,
                dataclasses.replace(self.config, tau_threshold=tau_threshold),
                drift_encode=self._classifier.drift_tower,
                tokens=partial(self._classifier.measuring_tower.gate_tokens, config=self.config),
            )
        return self._kept[key]

    @torch.no_grad()
    def embed(self, pixels: Tensor) -> Tensor:
        """f(x): [N, D]."""
        return self._classifier.image_tower(pixels)

    @torch.no_grad()
    def answer(self, embedding: Tensor, moved: Tensor, drift: Tensor, countered: Tensor) -> Tensor:
        """What x + delta is answered from [N, D]: f(x + delta), `embedding`, or several views."""
        tower, passed = self._classifier.image_tower, ~countered
        if self.config.views and countered.any():
            seen = answer_embedding(tower, moved[countered], self.config)
            embedding = embedding.index_put((countered,), seen)
        if self.config.passes_by_several and passed.any():
            early = passed_early(drift[passed], self.config)
            several = passed_embedding(tower, moved[passed], self.config, embedding[passed], early)
            embedding = embedding.index_put((passed,), several)
        return embedding

    @torch.no_grad()
    def logits(self, embedding: Tensor) -> Tensor:
        """[N, C] of embeddings [N, D]."""
        weights, scale = self._classifier.class_weights, self._classifier.logit_scale
        return ops.zero_shot_head(embedding.contiguous(), weights, scale, implementation="naive")


def _digest(*tensors: Tensor) -> bytes:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.digest()
