"""Verifies a file that draws its own noise, by averages over many draws beside the reference's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..artifacts.classifier import ArtifactClassifier
from ..config import GATES
from ..inputs.tensors import as_unit
from .limits import Limits
from .outcome import CheckRow, at_least, at_most
from .sides import MOST, FileAnswer, Reference, answers_of, batch_sizes

__all__ = ["sampled_rows"]

_PICTURES = 12  # at most, because each costs as much as a batch
# The draws of each picture, and its copies in one batch: noise must differ between rows and between runs.
_DRAWS, _COPIES = 16, 8
# In standard errors. Student's t of 30 degrees of freedom exceeds this less than twice in a million.
_APART = 6.0


class Samples(NamedTuple):
    """Answers for K draws of one picture, [K, ...], or of each of P pictures, [P, K, ...].

    Attributes:
        logits: [..., C], defended.
        drift: [...].
        countered: bool [...].
    """

    logits: Tensor
    drift: Tensor
    countered: Tensor


def sampled_rows(
    artifact: ArtifactClassifier,
    reference: Reference,
    pictures: Tensor,
    limits: Limits,
    progress: Callable[[str], object],
) -> Iterator[CheckRow]:
    """Compares a file that draws its own noise with the reference, by averages over many draws.

    The file runs on all pictures in each batch size of `clipfast.verification.sides.batch_sizes`, and on
    16 copies of each of the first 12 pictures.

    Args:
        artifact: The exported classifier.
        reference: The reference.
        pictures: [N, 3, H, W] in the dtype that the file takes, on the reference's device.
        limits: The limits of the file.
        progress: Called with a message for each picture that is copied.

    Yields:
        The checks, one after the other.

    Raises:
        ArtifactError: If the file fails, as in `ArtifactClassifier.predict`.
        InputError: If the file's answers are not finite.
    """
    clean = torch.cat([reference.logits(reference.embed(as_unit(x))) for x in pictures.split(MOST)])
    once = [answers_of(artifact, pictures, size) for size in batch_sizes(artifact.metadata.batch)]
    several = pictures[:_PICTURES]
    ours, theirs = [], []
    for i, picture in enumerate(several):
        progress(f"drawing noise for picture {i + 1} of {len(several)}")
        copies = picture.expand(_DRAWS, -1, -1, -1)
        ours.append(answers_of(artifact, copies, _COPIES))
        x = as_unit(copies)
        result = reference.counter(x, reference.noise(i * _DRAWS, x), reference.config.tau_threshold)
        theirs.append(Samples(reference.logits(result.embedding), result.drift, result.countered))
    of_copies = clean[:_PICTURES].repeat_interleave(_DRAWS, dim=0)
    undefended = torch.cat([clean.repeat(len(once), 1), of_copies])
    yield from _exact_rows([*once, *ours], undefended, reference, limits)
    if GATES[reference.config.gate].draws:
        distinct = torch.tensor([len(answer.drift.unique()) for answer in ours])
        yield from at_least(f"different drifts of {_DRAWS} draws", distinct, _DRAWS - 1)
    found = Samples(*(torch.stack([getattr(answer, name) for answer in ours]) for name in Samples._fields))
    expected = Samples(*(torch.stack(tensors) for tensors in zip(*theirs, strict=True)))
    yield from _apart_rows("drift", found.drift, expected.drift, limits.drift)
    yield from _apart_rows("share countered", found.countered, expected.countered, limits.near)
    yield from _apart_rows("logits", found.logits, expected.logits, limits.countered[0])
    # The distance from undefended logits: noise changes it little, a wrong counterattack much.
    plain = clean[: len(several), None]
    ours_moved, theirs_moved = ((side.logits - plain).norm(dim=2) for side in (found, expected))
    yield from _apart_rows("shift of logits", ours_moved, theirs_moved, limits.countered[0])


def _exact_rows(
    answers: list[FileAnswer], undefended: Tensor, reference: Reference, limits: Limits
) -> Iterator[CheckRow]:
    """Checks what does not depend on noise; undefended: the reference's logits of all answers, [N, C]."""
    countered = torch.cat([answer.countered for answer in answers])
    plain = [answer.undefended_logits for answer in answers if answer.undefended_logits is not None]
    if plain:
        difference = torch.cat(plain) - undefended
        yield from at_most("undefended logits", difference.abs().amax(dim=1), limits.logits)
    embeddings = [answer.embedding for answer in answers if answer.embedding is not None]
    if embeddings:
        logits = torch.cat([answer.logits for answer in answers])
        difference = reference.logits(torch.cat(embeddings)) - logits
        yield from at_most("logits of the embedding", difference.abs().amax(dim=1), limits.logits)
    if reference.config.pass_through == "clean":
        passed = (torch.cat([answer.logits for answer in answers]) - undefended)[~countered]
        yield from at_most("logits, passed", passed.abs().amax(dim=1), limits.logits)


def _apart_rows(name: str, ours: Tensor, theirs: Tensor, floor: float) -> list[CheckRow]:
    """Checks of each picture's mean and of the mean of all, which shows smaller differences.

    ours, theirs: [P, K] or [P, K, C].
    """
    ours, theirs = ours.double(), theirs.double()
    of_all = _apart(ours.mean(dim=0, keepdim=True), theirs.mean(dim=0, keepdim=True), floor)
    return [
        *at_most(f"mean {name} of a picture, standard errors", _apart(ours, theirs, floor), _APART),
        *at_most(f"mean {name} of all, standard errors", of_all, _APART),
    ]


def _apart(ours: Tensor, theirs: Tensor, floor: float) -> Tensor:
    """How far two sides' means of K draws are apart, in standard errors: [P], of [P, K] or [P, K, C].

    For C numbers it is the length of their differences over the length of their standard errors. floor:
    added to the standard error to allow for rounding.
    """
    ours, theirs = ours.reshape(*ours.shape[:2], -1), theirs.reshape(*theirs.shape[:2], -1)
    difference = ours.mean(dim=1) - theirs.mean(dim=1)
    variance = (ours.var(dim=1) + theirs.var(dim=1)) / ours.shape[1]
    return difference.norm(dim=1) / (variance.sum(dim=1).sqrt() + floor)
