"""Counts the encoder passes of classifiers, image by image, in eager image towers and in engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ..classifier import DefendedClassifier
from ..config import CounterattackConfig
from ..defence.engine import Engine
from ..defence.passes import Passes, engine_passes
from ..models.tower import ImageTower
from ..reference import Counterattacked

__all__ = ["PassCounter"]


class PassCounter:
    """Counts what classifiers' towers and engines do between `with` and its end.

    An image through a tower is one forward pass, its gradient to the pixels one backward pass. Some blocks
    alone are that share of a pass. If a gradient is itself differentiated, as in the unrolled defence, that
    pass is gone through once more and counts as another backward pass. An engine's passes follow from its
    schedule and from how many images it countered, see `engine_passes`. Passes of a separate drift encoder
    count alike.

    Args:
        *classifiers: The classifiers to watch. A tower that several share counts once; without
            classifiers nothing is counted.

    Attributes:
        forward: Forward passes so far, an image each.
        backward: Backward passes so far, an image each.
    """

    def __init__(self, *classifiers: DefendedClassifier) -> None:
        self.forward = self.backward = 0.0
        # An engine's passes follow from its schedule, though its encoder may run the tower.
        self._in_engine = False
        self._classifiers = classifiers
        self._undo: list[Callable[[], object]] = []

    def __enter__(self) -> PassCounter:
        # Engines are made before towers are watched, because tracing a tower runs it.
        for engine in [classifier.engine for classifier in self._classifiers]:
            if isinstance(engine, Engine):
                self._watch(engine)
        towers = {tower for each in self._classifiers for tower in (each.image_tower, each.drift_tower)}
        for tower in towers:
            if tower is not None:
                self._undo.append(tower.register_forward_hook(self._on_tower).remove)
                self._watch_tokens(tower)
        return self

    def __exit__(self, *_: object) -> None:
        while self._undo:
            self._undo.pop()()

    def an_image(self, n: int) -> Passes:
        """Returns the passes so far, on average over n images."""
        return Passes(self.forward / max(n, 1), self.backward / max(n, 1))

    def _on_tower(self, _: nn.Module, __: Sequence[Tensor], embedding: Tensor) -> None:
        if not self._in_engine:
            self._on_embedding(embedding)

    def _on_embedding(self, embedding: Tensor, share: float = 1) -> Tensor:
        """share: of a pass that the embedding took."""

        def on_gradient(cotangent: Tensor) -> None:
            self.backward += share * len(cotangent)
            # The gradient's own graph is kept, so this pass may be gone through again.
            if cotangent.requires_grad:
                cotangent.register_hook(on_second_gradient)

        def on_second_gradient(gradient: Tensor) -> None:
            self.backward += share * len(gradient)

        self.forward += share * len(embedding)
        if embedding.requires_grad:
            embedding.register_hook(on_gradient)
        return embedding

    def _watch_tokens(self, tower: ImageTower) -> None:
        def watched(pixels: Tensor, config: CounterattackConfig) -> Tensor:
            tokens = ImageTower.gate_tokens(tower, pixels, config)
            return self._on_embedding(tokens, (config.gate_depth or 0) / tower.blocks)

        tower.gate_tokens = watched
        self._undo.append(lambda: delattr(tower, "gate_tokens"))

    def _watch(self, engine: Engine) -> None:
        run, embed, embed_with_gradient = engine.run, engine.embed, engine.embed_with_gradient

        def watched(*args: Any, **kwargs: Any) -> Counterattacked:
            defended = self._inside(run, *args, **kwargs)
            forward, backward = engine_passes(
                engine.config,
                images=len(defended.drift),
                countered=int(defended.countered.sum()),
                early=int(engine.config.passed_early(defended.drift).sum()),
                blocks=engine.gate_blocks,
                drift_encoder=engine.drift_encoder is not None,
                with_clean=kwargs.get("with_clean", False),
                with_answer=kwargs.get("with_answer", True),
            )
            self.forward += forward
            self.backward += backward
            return defended

        def undo() -> None:
            engine.run, engine.embed, engine.embed_with_gradient = run, embed, embed_with_gradient

        engine.run = watched
        engine.embed = lambda pixels: self._on_embedding(self._inside(embed, pixels))
        engine.embed_with_gradient = lambda pixels: self._on_embedding(
            self._inside(embed_with_gradient, pixels)
        )
        self._undo.append(undo)

    def _inside(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._in_engine = True
        try:
            return method(*args, **kwargs)
        finally:
            self._in_engine = False
