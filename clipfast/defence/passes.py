"""The cost model: encoder passes of a batch, by its settings and by how many images were countered."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import GATES, CounterattackConfig

__all__ = ["Passes", "engine_passes"]


@dataclass(frozen=True)
class Passes:
    """Encoder passes an image, on average.

    Attributes:
        forward: Forward passes.
        backward: Backward passes.
    """

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
    """Computes the engine's encoder passes for a batch in which some images were countered.

    The probe is 2 forward passes of every image. If the gate reads other passes and goes first, those are
    2 (or none, for the gate "none"), and then come the passes for what is needed and not yet known. A
    passing image needs only what it is answered from. A countered image needs, besides, as many forward
    and backward passes as there are steps, where the probe counts as the first step's forward pass. It
    also needs what it is answered from: f(x + delta), or each view, except for views that the gate
    embedded if nothing is added. An ascent towards f(t(x)) needs that embedding too, if the gate did not
    make it.

    Args:
        config: Settings of the defence.
        images: Number of images in the batch.
        countered: How many of them were countered.
        early: How many of them passed early.
        blocks: The number of blocks of the tower that measures. A gate with a depth runs only so many of
            them for t(x), and the others only for images that do not pass early. None counts all of
            them, which is the most that it can be.
        drift_encoder: Whether the gate measures with a tower of its own.
        with_clean: Whether f(x) is asked for of every image.
        with_answer: Whether what countered images are answered from is asked for.

    Returns:
        The numbers of forward and of backward passes, over the whole batch.
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
    """How many passes an image's answer takes if it passes the gate and nothing of it is known."""
    return {"noise": 1, "clean": 1, "both": 2, "views": len(config.views)}[config.pass_through]
