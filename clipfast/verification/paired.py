"""Verifies a file that takes noise: runs both sides on the same pixels and noise, image by image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..artifacts.classifier import ArtifactClassifier
from ..inputs.tensors import as_unit
from ..reference import Counterattacked
from .limits import Limits
from .outcome import CheckRow, at_least, at_most, share_at_most
from .sides import MOST, FileAnswer, Reference, answers_of, batch_sizes, takes

__all__ = ["paired_rows"]

_OPEN = 1e9  # a threshold above every drift
# Drift is a difference of embeddings. Below this the effect of rounding no longer shrinks with the drift.
_SMALL_DRIFT = 0.2


class AnswerErrors(NamedTuple):
    """How far a file's answers are from the reference's, for N images.

    Attributes:
        undefended_logits: float [N], the largest difference; [0] if the file does not give them.
        drift: float [N], the difference relative to the reference's drift, or to 0.2 if that is below
            0.2.
        distance: float [N], the distance of the reference's drift from the threshold, in the same unit.
        countered: bool [N], whether the file counters the image.
        same_gate: bool [N], whether both sides decide alike at the gate.
        logits: float [N], the largest difference.
        of_embedding: float [N], the largest difference of the file's logits from those of its embedding;
            [0] if the file gives no embedding.
        same_label: bool [N], whether both sides give the same label.
        margin: float [N], the difference of the reference's two best logits.
    """

    undefended_logits: Tensor
    drift: Tensor
    distance: Tensor
    countered: Tensor
    same_gate: Tensor
    logits: Tensor
    of_embedding: Tensor
    same_label: Tensor
    margin: Tensor


class DeltaErrors(NamedTuple):
    """How far a file's counter-perturbations are from the reference's, and their effect, for N images.

    Attributes:
        logits: float [N], the largest difference of the file's logits from those of f(x + delta) by the
            reference.
        largest: float [N], the largest difference of an entry.
        strayed: float [N], the share of entries that differ by more than 1e-5; in l2 the length of the
            difference over eps.
        displaced: float [N], ||f(x + delta) - f(x)|| over that of the reference's delta.
        beyond_eps: float [N], by how much delta exceeds its budget; below 0 if it does not.
        beyond_range: float [N], by how much x + delta leaves [0, 1]; below 0 if it does not.
    """

    logits: Tensor
    largest: Tensor
    strayed: Tensor
    displaced: Tensor
    beyond_eps: Tensor
    beyond_range: Tensor


def paired_rows(
    artifact: ArtifactClassifier,
    reference: Reference,
    pictures: Tensor,
    limits: Limits,
    progress: Callable[[str], object],
) -> Iterator[CheckRow]:
    """Compares a file that takes noise with the reference, image by image.

    A file that takes thresholds runs with the gate closed, open and mixed; in the mixed case, and without
    thresholds, in each batch size of `clipfast.verification.sides.batch_sizes`.

    Args:
        artifact: The exported classifier.
        reference: The reference.
        pictures: [N, 3, H, W] in the dtype that the file takes, on the reference's device; N is even.
        limits: The limits of the file.
        progress: Called with a message for each batch of pictures.

    Yields:
        The checks, one after the other.

    Raises:
        ArtifactError: If the file fails, as in `ArtifactClassifier.predict`.
        InputError: If the file's answers are not finite.
    """
    errors: list[AnswerErrors] = []
    delta_errors: list[DeltaErrors] = []
    for first in range(0, len(pictures), MOST):
        progress(f"comparing pictures {first + 1} to {min(first + MOST, len(pictures))} of {len(pictures)}")
        pixels = pictures[first : first + MOST]
        x = as_unit(pixels)
        noise, clean = reference.noise(first, x), reference.embed(x)
        takes_threshold = takes(artifact, "tau_threshold")
        if takes_threshold:
            between = _between(reference.counter(x, noise, 0.0).drift)
            runs = {0.0: (MOST,), _OPEN: (MOST,), between: batch_sizes(artifact.metadata.batch)}
        else:
            runs = {reference.config.tau_threshold: batch_sizes(artifact.metadata.batch)}
        for threshold, sizes in runs.items():
            expected = reference.counter(x, noise, threshold)
            for size in sizes:
                given = threshold if takes_threshold else None
                answer = answers_of(artifact, pixels, size, noise=noise, tau_threshold=given)
                errors.append(_compared(reference, clean, expected, answer, threshold))
                if answer.delta is not None:
                    compared = _delta_compared(reference, x, clean, expected, answer, answer.delta)
                    delta_errors.append(compared)
    all_errors = AnswerErrors(*map(torch.cat, zip(*errors, strict=True)))
    yield from _rows(all_errors, limits)
    if delta_errors:
        deltas = DeltaErrors(*map(torch.cat, zip(*delta_errors, strict=True)))
        yield from _delta_rows(deltas, all_errors, limits, ascends=reference.config.steps > 0)


def _between(drift: Tensor) -> float:
    """A threshold that splits drifts, [N], in the widest gap of their middle half."""
    ordered = drift.sort().values
    quarter = len(ordered) // 4
    middle = ordered[quarter : len(ordered) - quarter]
    widest = int(middle.diff().argmax())
    return middle[widest : widest + 2].mean().item()


def _compared(
    reference: Reference, clean: Tensor, expected: Counterattacked, answer: FileAnswer, tau_threshold: float
) -> AnswerErrors:
    logits = reference.logits(expected.embedding)
    best = logits.topk(min(2, logits.shape[1])).values
    threshold = torch.full_like(expected.drift, tau_threshold)
    unit = expected.drift.maximum(torch.full_like(expected.drift, _SMALL_DRIFT))

    def difference(given: Tensor | None, wanted: Tensor) -> Tensor:
        return wanted.new_empty(0) if given is None else _largest(given - wanted)

    return AnswerErrors(
        undefended_logits=difference(answer.undefended_logits, reference.logits(clean)),
        drift=(answer.drift - expected.drift).abs() / unit,
        distance=(expected.drift - threshold).abs() / unit,
        countered=answer.countered,
        same_gate=answer.countered == expected.countered,
        logits=_largest(answer.logits - logits),
        of_embedding=difference(
            None if answer.embedding is None else reference.logits(answer.embedding), answer.logits
        ),
        same_label=answer.logits.argmax(1) == logits.argmax(1),
        margin=best[:, 0] - best[:, -1],
    )


def _delta_compared(
    reference: Reference,
    pixels: Tensor,
    clean: Tensor,
    expected: Counterattacked,
    answer: FileAnswer,
    delta: Tensor,
) -> DeltaErrors:
    config, moved = reference.config, pixels + delta
    embedding = reference.embed(moved)
    wanted = reference.embed(pixels + expected.delta)
    difference, entries = (delta - expected.delta).flatten(1), delta.flatten(1)
    if config.norm == "l2":
        size, strayed = entries.norm(dim=1), difference.norm(dim=1) / config.eps
    else:
        size, strayed = _largest(entries), (difference.abs() > 1e-5).double().mean(dim=1)
    over, under = moved.flatten(1).amax(dim=1) - 1, -moved.flatten(1).amin(dim=1)
    return DeltaErrors(
        logits=_largest(
            answer.logits
            - reference.logits(reference.answer(embedding, moved, answer.drift, answer.countered))
        ),
        largest=_largest(difference),
        strayed=strayed,
        displaced=(embedding - clean).norm(dim=1) / (wanted - clean).norm(dim=1),
        beyond_eps=size - config.eps,
        beyond_range=over.maximum(under),
    )


def _rows(errors: AnswerErrors, limits: Limits) -> list[CheckRow]:
    passed, countered = _by_gate(errors)
    clear = errors.distance > limits.near
    return [
        *at_most("undefended logits", errors.undefended_logits, limits.logits),
        *at_most("logits of the embedding", errors.of_embedding, limits.logits),
        *at_most("drift", errors.drift, limits.drift),
        *share_at_most("gate, away from the threshold", ~errors.same_gate[clear], limits.gate),
        *at_most("logits, passed", errors.logits[passed], limits.logits),
        *at_most("logits, countered", errors.logits[countered], limits.countered[1]),
        *at_most("logits, countered, mean", _mean(errors.logits[countered]), limits.countered[0]),
        *share_at_most(
            "label, where it is clear", ~errors.same_label[errors.margin > limits.margin], limits.labels
        ),
    ]


def _delta_rows(
    deltas: DeltaErrors, errors: AnswerErrors, limits: Limits, *, ascends: bool
) -> list[CheckRow]:
    passed, countered = _by_gate(errors)
    rows = [
        *at_most("logits of x + delta", deltas.logits, limits.logits),
        *at_most("delta, passed", deltas.largest[passed], 1e-6),
        *at_most("delta beyond eps", deltas.beyond_eps, 1e-6),
        *at_most("x + delta beyond [0, 1]", deltas.beyond_range, 1e-6),
    ]
    if ascends:
        rows += at_least("displacement", deltas.displaced[countered], limits.displaced[1])
        rows += at_least("displacement, mean", _mean(deltas.displaced[countered]), limits.displaced[0])
    if limits.strayed is not None:
        strayed = deltas.strayed[countered]
        rows += at_most("delta, countered", strayed, limits.strayed[1])
        rows += at_most("delta, countered, mean", _mean(strayed), limits.strayed[0])
    return rows


def _by_gate(errors: AnswerErrors) -> tuple[Tensor, Tensor]:
    """Which images both sides let pass, and which both counter."""
    return errors.same_gate & ~errors.countered, errors.same_gate & errors.countered


def _mean(values: Tensor) -> Tensor:
    """[1], or [0] of none."""
    return values.double().mean(dim=0, keepdim=True) if len(values) else values


def _largest(difference: Tensor) -> Tensor:
    return difference.abs().amax(dim=1)
