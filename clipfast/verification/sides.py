"""The two sides of a verification, an exported file and the eager reference, both over torch tensors."""

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
from ..reference_stages import answer_embedding, passed_embedding

__all__ = ["MOST", "FileAnswer", "Reference", "answers_of", "batch_sizes", "takes"]

MOST = 32  # images at a time, to bound the memory
_KEPT = 16  # answers of the reference: enough for one batch under three thresholds, or twelve pictures


class FileAnswer(NamedTuple):
    """An exported file's answer for N images, on the device of their pixels.

    Attributes:
        logits: float32 [N, C], defended.
        undefended_logits: float32 [N, C], or None if the file does not give them.
        drift: float32 [N].
        countered: bool [N].
        delta: float32 [N, 3, H, W] in [0, 1] pixel units, or None if the file does not give it.
        embedding: float32 [N, D] before L2 normalisation, or None if the file does not give it.
    """

    logits: Tensor
    undefended_logits: Tensor | None
    drift: Tensor
    countered: Tensor
    delta: Tensor | None
    embedding: Tensor | None


def takes(artifact: ArtifactClassifier, name: str) -> bool:
    """Returns whether an exported classifier has an input of this name."""
    return any(port.name == name for port in artifact.metadata.ports[0])


def batch_sizes(batch: int | None) -> tuple[int, ...]:
    """Returns the batch sizes in which a file is run to verify it.

    Args:
        batch: The file's batch size, or None for any.

    Returns:
        1, 3 and 32, or 1 alone if the file's batch size is 1, because every batch is then cut into single
        images.
    """
    return (1,) if batch == 1 else (1, 3, MOST)


def answers_of(
    artifact: ArtifactClassifier,
    pixels: Tensor,
    size: int,
    *,
    noise: Tensor | None = None,
    tau_threshold: float | None = None,
) -> FileAnswer:
    """Returns a file's answer for pictures that are run a few at a time.

    Args:
        artifact: The exported classifier.
        pixels: [N, 3, H, W] in the dtype that the file takes.
        size: How many images are run at a time.
        noise: float32 [N, 3, H, W] within eps, in [0, 1] pixel units, for a file that takes it.
        tau_threshold: The gate's threshold, for a file that takes it.

    Raises:
        InputError: As for `ArtifactClassifier.predict`.
        ArtifactError: As for `ArtifactClassifier.predict`.
    """
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

    Tensors are on the classifier's device; pixels are float32 [N, 3, H, W] in [0, 1]. The last answers
    are kept, because each runtime of a file asks for the same ones.

    Args:
        classifier: The classifier.

    Attributes:
        config: The classifier's settings.
    """

    def __init__(self, classifier: DefendedClassifier) -> None:
        self.config = classifier.config
        self._classifier = classifier
        self._kept: dict[bytes, Counterattacked] = {}

    def noise(self, first_image: int, pixels: Tensor) -> Tensor:
        """Draws noise for pixels.

        Args:
            first_image: The index of the first image. Image i's noise is that of the index `first_image`
                + i.
            pixels: float32 [N, 3, H, W] in [0, 1].

        Returns:
            float32 [N, 3, H, W] within eps, in [0, 1] pixel units.
        """
        draw = seeded(0, first_image, len(pixels), pixels.device)
        return draw_noise(draw, pixels.shape, self.config)

    def counter(self, pixels: Tensor, noise: Tensor, tau_threshold: float) -> Counterattacked:
        """Runs the reference's counterattack with another threshold than the config's.

        Args:
            pixels: float32 [N, 3, H, W] in [0, 1].
            noise: float32 [N, 3, H, W] within eps, in [0, 1] pixel units.
            tau_threshold: The gate's threshold.
        """
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
        """Returns the embeddings f(x).

        Args:
            pixels: float32 [N, 3, H, W] in [0, 1].

        Returns:
            float32 [N, D], before L2 normalisation.
        """
        return self._classifier.image_tower(pixels)

    @torch.no_grad()
    def answer(self, embedding: Tensor, moved: Tensor, drift: Tensor, countered: Tensor) -> Tensor:
        """Returns the embeddings from which images are answered.

        Args:
            embedding: f(x + delta), float32 [N, D].
            moved: x + delta, float32 [N, 3, H, W] in [0, 1].
            drift: float32 [N], what the gate measured.
            countered: bool [N], the images that are countered.

        Returns:
            float32 [N, D], `embedding` with the mean of several views in its place for those images that
            the config answers so.
        """
        tower, passed = self._classifier.image_tower, ~countered
        if self.config.views and countered.any():
            seen = answer_embedding(tower, moved[countered], self.config)
            embedding = embedding.index_put((countered,), seen)
        if self.config.passes_by_several and passed.any():
            early = self.config.passed_early(drift[passed])
            several = passed_embedding(tower, moved[passed], self.config, embedding[passed], early)
            embedding = embedding.index_put((passed,), several)
        return embedding

    @torch.no_grad()
    def logits(self, embedding: Tensor) -> Tensor:
        """Returns the zero-shot logits of embeddings.

        Args:
            embedding: [N, D].

        Returns:
            float32 [N, C].
        """
        weights, scale = self._classifier.class_weights, self._classifier.logit_scale
        return ops.zero_shot_head(embedding.contiguous(), weights, scale, implementation="naive")


def _digest(*tensors: Tensor) -> bytes:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.digest()
