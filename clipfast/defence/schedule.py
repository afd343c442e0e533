"""A defence's three stages (TTC, arXiv 2503.03613, section 3, and others) as pure functions.

Each pass is made once. `start` gives x and d0, and `probe` f(x) and f(x + d0), which the gate reads.
`clipfast.defence.counterattack` ascends from the activations that the probe saved, for countered rows
alone, and `finish` embeds the result. `Schedule` puts them in order, for the engine and for exporters.

The answers are `clipfast.reference`'s. With published settings they cost 2 forward passes for an image
that passes the gate, and 4 forward and 2 backward passes for one that is countered. The gate goes before
the probe if another tower measures it, or if it reads other passes or none.

x and perturbations are in the encoder's layout. `implementation` is that of the operators between the
passes, see `clipfast.ops`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..config import GATES, CounterattackConfig
from ..encoders import CompiledEncoder
from ..encoders.base import Encoder
from ..inputs.noise import Noise
from ..ops import Implementation
from ..reference import Counterattacked
from .counterattack import Probe, counterattack
from .gates import MEASURES, Compared, Gated
from .rows import Rows, selected
from .transforming import PictureMap
from .views import mean_of_views

__all__ = [
    "Halfway",
    "Run",
    "Schedule",
    "defend",
    "finish",
    "probe",
    "start",
]


# Runs a stage: takes its name, the stage and its inputs, and gives what the stage gives.
Run = Callable[..., Any]


def _directly(_: str, stage: Callable[..., Any], *inputs: Any) -> Any:
    return stage(*inputs)


class Halfway(NamedTuple):
    """N images after the gate: those that pass are answered, those that it holds back wait for the loop.

    Attributes:
        drift: [N], what the gate measured.
        countered: bool [N].
        clean_embedding: f(x), [N, D]. NaN for images of which it was not needed.
        embedding: What images that pass are answered from, [N, D].
        delta: The perturbation of images that pass, in layout, [N, ...].
        rows: The images that are held back, int64 [M].
        held: What is known of those M images; None if there are none.
    """

    drift: Tensor
    countered: Tensor
    clean_embedding: Tensor
    embedding: Tensor
    delta: Tensor
    rows: Tensor
    held: Probe | None


def start(
    encoder: Encoder,
    pixels: Tensor,
    noise: Noise[Tensor],
    config: CounterattackConfig,
    implementation: Implementation = "auto",
) -> tuple[Tensor, Tensor]:
    """Computes x, and d0: noise within eps, moved where x + d0 would leave [0, 1].

    Args:
        encoder: The image tower, whose layout the results are in.
        pixels: [N, 3, H, W], uint8 or float in [0, 1].
        noise: The noise of the N images: numbers within eps, shaped as the pixels, or keys to draw it.
        config: Gives eps and the norm.
        implementation: Of the operators between the passes.

    Returns:
        x and d0 in layout, [N, ...], in [0, 1] pixel units.

    Raises:
        InputError: As `clipfast.ops.perturb` does.
    """
    return ops.perturb(
        pixels,
        noise.given,
        seeds=noise.seeds,
        images=noise.images,
        eps=config.eps,
        patch=encoder.patch_size,
        norm=config.norm,
        implementation=implementation,
    )


def probe(
    encoder: Encoder, x: Tensor, d: Tensor, *, double: bool = True, clean: Tensor | None = None
) -> Probe:
    """Computes f(x) and f(x + d).

    Args:
        encoder: The image tower, f.
        x: The pixels, in layout.
        d: A perturbation, in layout.
        double: Whether to compute both in one batch of twice the size, which speeds up small batches.
        clean: f(x), [N, D], if it is known.
    """
    base = encoder.project(x)
    if clean is not None:
        return Probe(x, base, d, clean, *encoder.forward(base, d))
    if double:
        return Probe(x, base, d, *encoder.forward_pair(base, d))
    return Probe(x, base, d, encoder.embed(base), *encoder.forward(base, d))


def passed(probed: Probe, config: CounterattackConfig) -> tuple[Tensor, Tensor]:
    """Returns the embedding and the perturbation of images that pass the gate.

    They are f(x + d0) and d0 with pass_through "noise", else f(x) and 0.

    Args:
        probed: What is known of the images.
        config: Gives pass_through.
    """
    if config.pass_through == "noise":
        return probed.noisy, probed.d
    return probed.clean, torch.zeros_like(probed.d)


def finish(encoder: Encoder, base: Tensor, delta: Tensor) -> Tensor:
    """Computes f(x + delta), [N, D].

    Args:
        encoder: The image tower, f.
        base: What `Encoder.project` gives of x.
        delta: The perturbation, in layout.
    """
    return encoder.embed(base, delta)


@dataclass(frozen=True)
class Schedule:
    """A defence in two halves, between which rows are chosen: the order of passes.

    The engine and the exporters share it. Each half is made of stages, which are functions of tensors
    whose shapes depend on no value.

    Attributes:
        encoder: The image tower, f.
        config: Settings of the defence.
        threshold: The gate's threshold, float32, a scalar or one for each image, [N].
        drift_encoder: The tower that the gate measures with, if it is another one.
        implementation: Of the operators between passes.
        run: Runs a stage, given its name, the stage and its inputs.
        transforms: Those that the config names, see `clipfast.defence.transforming.transforms_of`.
    """

    encoder: Encoder
    config: CounterattackConfig
    threshold: Tensor
    drift_encoder: Encoder | None = None
    implementation: Implementation = "auto"
    run: Run = _directly
    transforms: Mapping[str, PictureMap] = field(default_factory=dict)

    @property
    def gates_first(self) -> bool:
        """Whether the gate reads other passes than the probe's, and so goes before it."""
        return self.drift_encoder is not None or not GATES[self.config.gate].reads_probe

    def first_half(self, pixels: Tensor, noise: Noise[Tensor], *, with_clean: bool = False) -> Halfway:
        """Runs up to the gate: 2 forward passes of each image, and what those that pass need besides.

        The gate "none" needs no passes of its own.

        Args:
            pixels: [N, 3, H, W], uint8 or float in [0, 1].
            noise: The noise of the N images, within eps.
            with_clean: Whether to compute f(x) of every image, needed or not.
        """
        x, d = start(self.encoder, pixels, noise, self.config, self.implementation)
        if self.gates_first:
            return self._gated_first(pixels, noise, x, d, with_clean=with_clean)
        gated, probed = self.run("probe", self._probe, x, d)
        rows = gated.countered.nonzero().flatten()  # the one host read
        held = _chosen(probed, rows, x.shape[0])
        return Halfway(gated.drift, gated.countered, gated.clean, *passed(probed, self.config), rows, held)

    def embed(self, x: Tensor) -> Tensor:
        """Computes f(x) [N, D] of x in layout."""
        return self.run("embed", self._embed, x)

    def second_half(self, held: Probe) -> tuple[Tensor, Tensor]:
        """Counters images that the gate held back.

        Args:
            held: What is known of the M images.

        Returns:
            What they are answered from, f(x + delta) or the mean of its views, [M, D], and delta in
                layout.
        """
        return self.run("counterattack", self._counterattack, held)

    def perturbation(self, held: Probe) -> Tensor:
        """Computes delta alone, in layout: for an attacker, who embeds x + delta with a gradient."""
        return self.run("perturbation", self._perturbation, held)

    def every_stage(self, pixels: Tensor, noise: Noise[Tensor]) -> None:
        """Runs each stage once on N images, whatever the gate says: a warm-up.

        Args:
            pixels: [N, 3, H, W], uint8 or float in [0, 1].
            noise: The noise of the N images, within eps.
        """
        x, d = start(self.encoder, pixels, noise, self.config, self.implementation)
        if not self.gates_first:
            held = self.run("probe", self._probe, x, d)[1]
        else:
            known = self._known(self._gate(pixels, noise, x, d, masked=True), x, masked=True)
            self.run("pass_on", self._pass_on, x, d, *known)
            self.embed(x)
            held = self.run("probe_gated", self._probe_gated, x, d, *known)
        self.second_half(held)

    def _gate(
        self, pixels: Tensor, noise: Noise[Tensor], x: Tensor, d: Tensor, *, masked: bool = False
    ) -> Gated:
        """The gate by itself: 2 forward passes at most of the tower that measures, or none.

        x and d are those of `start`. masked: no shape depends on a value, as if no image passed early.
        """
        if self.config.gate == "none":
            drift = 0 * x.flatten(1).sum(dim=1)  # NaN of an image with a pixel out of range
            return Gated(drift, drift < self.threshold, None, None)
        encoder = self._measuring
        if self.drift_encoder is not None:
            x, d = start(encoder, pixels, noise, self.config, self.implementation)
        if self.config.gate_depth is not None:
            return self._gate_at_depth(x, masked=masked)
        compared = Compared(x, d, lambda x: self._transformed(x, self.config.transform, encoder))
        beside = MEASURES[self.config.gate].beside(compared, self.config)
        return self.run("gate_by", self._gate_by, x, beside)

    def _gate_at_depth(self, x: Tensor, *, masked: bool) -> Gated:
        """By the tokens after a block, and of images that do not pass early by the embeddings."""
        encoder, early = self._measuring, self.config.early_threshold
        beside = self._transformed(x, self.config.transform, encoder)
        shallow, clean, tokens = self.run("gate_tokens", self._gate_tokens, x, beside)
        if early is None:
            return Gated(shallow, shallow < self.threshold, clean, None)
        drift = 1 + shallow
        passes = (shallow >= early) & ~(drift < self.threshold)
        if masked:
            other, deep = self.run("gate_on", self._gate_on, clean, tokens)
            other = torch.where(passes[:, None], clean, other)
            drift = torch.where(shallow >= early, drift, deep)
        else:
            rows = (~passes).nonzero().flatten()
            some, other = _chosen((clean, tokens), rows, x.shape[0]), clean
            if some is not None:
                made, deep = self.run("gate_on", self._gate_on, *some)
                deep = torch.where(shallow[rows] >= early, drift[rows], deep)
                drift, other = drift.index_copy(0, rows, deep), other.index_copy(0, rows, made)
        return Gated(drift, drift < self.threshold, clean, other)

    @property
    def _measuring(self) -> Encoder:
        return self.encoder if self.drift_encoder is None else self.drift_encoder

    def _known(self, gated: Gated, x: Tensor, *, masked: bool = False) -> tuple[Tensor | None, Tensor | None]:
        """f(x) and f(t(x)) as far as the gate made them, if its tower is the one that answers.

        Without such a gate only f(x), if images are answered from it whichever way the gate sends them. For
        an image that passed early f(x) stands in for f(t(x)), so that it alone answers.
        """
        if self.drift_encoder is None and self.config.gate != "none":
            return gated.clean, gated.other if self.config.gate_embeds_transformed else None
        if not self.config.answers_both_ways_from_clean:
            return None, None
        clean = self.embed(x)
        if self.config.early_threshold is None or self.config.pass_through != "both":
            return clean, None
        early = self.config.passed_early(gated.drift) & ~gated.countered
        if masked:
            return clean, torch.where(early[:, None], clean, self._embed_transformed(x))
        rows = (~early).nonzero().flatten()
        some = _chosen(x, rows, x.shape[0])
        return clean, clean if some is None else clean.index_copy(0, rows, self._embed_transformed(some))

    def _transformed(self, x: Tensor, transform: str, encoder: Encoder) -> Tensor:
        """t(x) of x, both in an encoder's layout."""
        return encoder.to_layout(self.transforms[transform](encoder.from_layout(x)))

    def _gated_first(
        self, pixels: Tensor, noise: Noise[Tensor], x: Tensor, d: Tensor, *, with_clean: bool
    ) -> Halfway:
        n, passing_as = pixels.shape[0], self.config.pass_through
        gated = self._gate(pixels, noise, x, d)
        known, other = self._known(gated, x)
        rows, others = _sides(gated.countered)
        some = _chosen((x, d, known, other), others, n)
        passing = None if some is None else self.run("pass_on", self._pass_on, *some)
        some = _chosen((x, d, known, other), rows, n)
        held = None if some is None else self.run("probe_gated", self._probe_gated, *some)
        like = held.clean if passing is None else passing  # pyright: ignore[reportOptionalMemberAccess]
        unknown = like.new_full((n, like.shape[1]), torch.nan)
        embedding = unknown if passing is None else unknown.index_copy(0, others, passing)
        if known is not None:
            clean = known
        elif passing_as == "clean":
            clean = embedding
        elif with_clean:
            some = _chosen(x, others, n)
            clean = unknown if some is None else unknown.index_copy(0, others, self.embed(some))
        else:
            clean = unknown
        if known is None and held is not None:
            clean = clean.index_copy(0, rows, held.clean)
        delta = d if passing_as == "noise" else torch.zeros_like(d)
        return Halfway(gated.drift, gated.countered, clean, embedding, delta, rows, held)

    def _embed(self, x: Tensor) -> Tensor:
        return self.encoder.embed(self.encoder.project(x))

    def _probe(self, x: Tensor, d: Tensor) -> tuple[Gated, Probe]:
        probed = probe(self.encoder, x, d, double=self._double(x))
        return self._compare(probed.clean, probed.noisy), probed

    def _gate_by(self, x: Tensor, d: Tensor) -> Gated:
        encoder, n = self._measuring, x.shape[0]
        base = encoder.project(x)
        if torch.compiler.is_exporting() or not encoder.prefers_double(n):
            return self._compare(encoder.embed(base), encoder.embed(base, d))
        both = encoder.embed(torch.cat([base, base]), torch.cat([torch.zeros_like(d), d]))
        return self._compare(both[:n], both[n:])

    def _gate_tokens(self, x: Tensor, beside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """How well the tokens of x and t(x) agree at a depth [N]; f(x) [N, D]; the tokens of t(x)."""
        encoder, depth, n = self._measuring, self.config.gate_depth, x.shape[0]
        assert depth is not None
        if torch.compiler.is_exporting() or not encoder.prefers_double(n):
            tokens, others = (encoder.embed_until(encoder.project(one), depth) for one in (x, beside))
        else:
            both = encoder.embed_until(encoder.project(torch.cat([x, beside])), depth)
            tokens, others = both[:n], both[n:]
        read = (self._read(one) for one in (others, tokens))
        return torch.cosine_similarity(*read, dim=1), encoder.embed_from(tokens, depth), others

    def _read(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0] if self.config.gate_tokens == "class" else tokens[:, 1:].mean(dim=1)

    def _gate_on(self, clean: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """f(t(x)) [N, D] of its tokens, and how well it agrees with f(x) [N]."""
        assert self.config.gate_depth is not None
        other = self._measuring.embed_from(tokens, self.config.gate_depth)
        return other, torch.cosine_similarity(other, clean, dim=1)

    def _compare(self, clean: Tensor, other: Tensor) -> Gated:
        compare = MEASURES[self.config.gate].compare
        return Gated(*compare(clean, other, self.threshold, self.implementation), clean, other)

    def _pass_on(self, x: Tensor, d: Tensor, clean: Tensor | None, other: Tensor | None) -> Tensor:
        """What images are answered from that pass a gate before the probe."""
        if self.config.pass_through == "noise":
            return self.encoder.embed(self.encoder.project(x), d)
        if self.config.pass_through == "views":
            return self._viewed(x, {"identity": clean})
        clean = self._embed(x) if clean is None else clean
        if self.config.pass_through == "clean":
            return clean
        return mean_of_views([clean, self._embed_transformed(x) if other is None else other], "equal")

    def _probe_gated(self, x: Tensor, d: Tensor, clean: Tensor | None, other: Tensor | None) -> Probe:
        if not self.config.steps:  # nothing ascends, so that f(x + d0) is not needed
            base = self.encoder.project(x)
            clean = self.encoder.embed(base) if clean is None else clean
            return Probe(x, base, d, clean, clean, (), other)
        return probe(self.encoder, x, d, double=self._double(x), clean=clean)._replace(other=other)

    def _counterattack(self, held: Probe) -> tuple[Tensor, Tensor]:
        delta = self._perturbation(held)
        return self._answer(held, delta), delta

    def _perturbation(self, held: Probe) -> Tensor:
        config = self.config
        if not config.steps:
            return passed(held, config)[1]
        if config.objective == "towards" and held.other is None:
            held = held._replace(other=self._embed_transformed(held.x))
        return counterattack(self.encoder, held, config, self.implementation)

    def _answer(self, held: Probe, delta: Tensor) -> Tensor:
        """What countered images are answered from: f(x + delta), or the mean over its views."""
        config = self.config
        if not config.views:
            return finish(self.encoder, held.base, delta)
        # If nothing was added to the images, these views are embedded already.
        known = {} if config.moves else {config.transform: held.other, "identity": held.clean}
        return self._viewed(held.x + delta, known)

    def _viewed(self, x: Tensor, known: Mapping[str, Tensor | None]) -> Tensor:
        """The mean over the views of x in layout; known: embeddings of some of them."""
        seen = {view: embedding for view, embedding in known.items() if embedding is not None}
        unseen = [view for view in dict.fromkeys(self.config.views) if view not in seen]
        n, encoder, together = x.shape[0], self.encoder, 1
        # Of few images several views are one batch. A compiled encoder has its own sizes, and an exported
        # graph of any batch knows no number.
        if isinstance(n, int) and not isinstance(encoder, CompiledEncoder):
            together = max(1, encoder.chunk // n)
        for i in range(0, len(unseen), together):
            some = unseen[i : i + together]
            pictures = [self._transformed(x, view, encoder) for view in some]
            if len(some) == 1:  # an exported graph could not split by a number that it does not know
                seen[some[0]] = self._embed(pictures[0])
            else:
                seen |= zip(some, self._embed(torch.cat(pictures)).split(n), strict=True)
        return mean_of_views([seen[view] for view in self.config.views], self.config.view_weights)

    def _embed_transformed(self, x: Tensor, transform: str | None = None) -> Tensor:
        """f(t(x)) [N, D] of x in layout; t is the config's if no other is given."""
        return self._embed(self._transformed(x, transform or self.config.transform, self.encoder))

    def _double(self, x: Tensor) -> bool:
        return torch.compiler.is_exporting() or self.encoder.prefers_double(len(x))


def _sides(countered: Tensor) -> tuple[Tensor, Tensor]:
    """The countered rows and the others, int64, in order; by one host read."""
    if torch.compiler.is_exporting():
        return countered.nonzero().flatten(), (~countered).nonzero().flatten()
    held = int(countered.sum())
    order = countered.to(torch.int8).argsort(stable=True)
    return order[len(order) - held :], order[: len(order) - held]


def _chosen(structure: Rows, rows: Tensor, n: int) -> Rows | None:
    """Some of n rows: the structure itself if they are all of them, None if there are none.

    An exported graph does not know the number of rows, and always selects.
    """
    if not torch.compiler.is_exporting():
        if not len(rows):
            return None
        if len(rows) == n:
            return structure
    return selected(structure, rows)


def defend(
    schedule: Schedule,
    pixels: Tensor,
    noise: Noise[Tensor],
    *,
    masked: bool = False,
    with_clean: bool = False,
) -> Counterattacked:
    """Runs the whole defence of N images, any of them countered, as one graph.

    Args:
        schedule: The passes and their order.
        pixels: [N, 3, H, W], uint8 or float in [0, 1].
        noise: The noise of the N images, within eps.
        masked: Whether to counter every image and let the gate choose between results, so that no shape
            depends on a value.
        with_clean: Whether to compute f(x) of every image, needed or not.
    """
    if masked:
        return _masked(schedule, pixels, noise)
    halfway = schedule.first_half(pixels, noise, with_clean=with_clean)
    drift, countered, clean, embedding, delta, rows, held = halfway
    if held is not None:
        ascended, moved = schedule.second_half(held)
        embedding, delta = embedding.index_copy(0, rows, ascended), delta.index_copy(0, rows, moved)
    return Counterattacked(embedding, clean, drift, countered, schedule.encoder.from_layout(delta))


def _masked(schedule: Schedule, pixels: Tensor, noise: Noise[Tensor]) -> Counterattacked:
    encoder, config = schedule.encoder, schedule.config
    x, d = start(encoder, pixels, noise, config, schedule.implementation)
    if schedule.gates_first:
        gated = schedule._gate(pixels, noise, x, d, masked=True)
        known = schedule._known(gated, x, masked=True)
        held = schedule._probe_gated(x, d, *known)
        embedding, delta = passed(held, config)
        # If nothing ascends, f(x + d0) was not computed.
        if config.passes_by_several or not config.steps:
            embedding = schedule._pass_on(x, d, held.clean, known[1])
    else:
        gated, held = schedule._probe(x, d)
        embedding, delta = passed(held, config)
    ascended, moved = schedule.second_half(held)
    chosen = gated.countered.reshape(-1, *(1 for _ in d.shape[1:]))
    return Counterattacked(
        torch.where(gated.countered[:, None], ascended, embedding),
        held.clean,
        gated.drift,
        gated.countered,
        encoder.from_layout(torch.where(chosen, moved, delta)),
    )
