"""The cost model: encoder passes of a batch, by its settings and by how many images were countered."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import GATES, CounterattackConfig

__all__ = ["Passes", "engine_passes"]


@dataclass(frozen=True)
class Passes:
    """Encoder passes an image, on average: forward, backward."""

    forward: float
    backward: float

    def __str__(self) -> str:
        forward, backward = (f"{n:.3g}" if n < 100 else f"{n:.0f}" for n in (self.forward, self.backward))
        return f"{forward}F + {backward}B" if self.backward else f"{forward}F"


def engine_passes(
    config: CounterattackConfig,
    *,
    images: int,
    countered: int,
    early: int = 0,
    blocks: int | None = None,
    drift_encoder: bool = False,
    with_clean: bool = False,
    with_answer: bool = True,
) -> tuple[float, int]:
    """Forward and backward passes of a batch in which some images were countered.

    A countered image costs, beyond its probe, as many of both as there are steps, but that the probe made the
    first step's forward pass, and a forward pass of what it is answered from: f(x + delta), or each view, but
    for those that the gate has made where nothing is added. The probe is 2 forward passes; where the gate
    reads others first, it is those 2, or none where nothing is measured, and then what is not known yet and
    is needed: of images that pass, only what they are answered from; with_clean: f(x) of those too.
    with_answer: what countered images are answered from. An ascent towards f(t(x)) needs that too, where the
    gate did not make it. early: how many passed early. blocks: of the tower that measures, of which a gate
    with a depth runs so many for t(x), and the others of images alone that do not pass early; None: all of
    them, which is the most that it can be.
    """
    passed = images - countered
    gates = config.gate != "none"
    forward: float = 2 * images if gates else 0
    if config.gate_depth is not None and blocks is not None:
        spared = images if config.early_threshold is None else early
        forward -= spared * (1 - config.gate_depth / blocks)
    if drift_encoder or not gates:  # f(x) of the tower that answers is not known
        forward += countered + passed * _passing(config)
        if with_clean and not (config.pass_through == "clean" or config.answers_both_ways_from_clean):
            forward += passed
    elif not GATES[config.gate].reads_probe:
        forward += passed if config.pass_through == "noise" else 0
    probed = not drift_encoder and GATES[config.gate].reads_probe
    if config.steps:
        forward += countered * (config.steps - 1 if probed else config.steps)
    if config.objective == "towards" and (drift_encoder or not config.gate_embeds_transformed):
        forward += countered
    if with_answer:
        forward += countered * (_views_made(config, drift_encoder) if config.views else 1)
    return forward, config.steps * countered


def _views_made(config: CounterattackConfig, drift_encoder: bool) -> int:
    known = set() if config.moves else {"identity"}
    if known and config.gate_embeds_transformed and not drift_encoder:
        known.add(config.transform)
    return sum(view not in known for view in config.views)


def _passing(config: CounterattackConfig) -> int:
    """What an image that passes is answered from, where nothing of it is known."""
    return {"noise": 1, "clean": 1, "both": 2, "views": len(config.views)}[config.pass_through]
