"""What is made of a model's weights and kept until they change: packed encoders, class weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ..encoders import CompiledEncoder, Encoder, Tune, make_encoder
from ..errors import InputError
from ..models.class_weights import Template, Tokenizer, class_weights, null_embedding
from ..models.tower import ImageTower
from ..models.weights import Snapshot

__all__ = ["Head", "ModelState", "Once", "check_float32"]

T = TypeVar("T")


class Once(Generic[T]):
    """Holds what is made once, when it is first needed.

    Copies and unpickled ones are empty, as packed weights cannot be copied.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: T | None = None

    def get(self, make: Callable[[], T]) -> T:
        """Returns what `make` gave at the first call; safe across threads."""
        with self._lock:
            if self._made is None:
                self._made = make()
            return self._made

    def __reduce__(self) -> tuple[type[Once[T]], tuple[()]]:
        return Once, ()


class Head(NamedTuple):
    """The zero-shot head.

    Attributes:
        class_weights: float32 [D, C], columns of unit length.
        logit_scale: What cosines are multiplied by, float32, a scalar.
    """

    class_weights: Tensor
    logit_scale: Tensor


class ModelState:
    """A model's encoders and head, made when they are first needed and anew when its weights change.

    `refresh` is the one place that decides on staleness: it looks whether the weights are still those
    that all of this was made from. The classifiers of one model share a state; copies make their own.

    Args:
        image_tower: The model's image tower.
        drift_tower: The tower that the gate measures with, if it is another one.
        tokenizer: The model's tokenizer.
        classnames: Names of the C classes.
        templates: Templates of prompts, see `clipfast.models.class_weights`.
        dtype: Of the large products' operands.
        compile: Whether encoders run through torch.compile.
        tune: How their forms are chosen on a CPU, see `clipfast.encoders.VitEncoder`.
        head: The head, if it is made already.

    Raises:
        InputError: For bad class names or templates, and for class weights or a scale that are not
            finite.
    """

    def __init__(
        self,
        image_tower: ImageTower,
        drift_tower: ImageTower | None,
        tokenizer: Tokenizer,
        classnames: Sequence[str],
        templates: Sequence[Template],
        dtype: torch.dtype,
        compile: bool,
        tune: Tune,
        head: Head | None = None,
    ) -> None:
        self._made_of = image_tower, drift_tower, tokenizer, classnames, templates, dtype, compile, tune
        self._image_tower, self._drift_tower, self._tokenizer = image_tower, drift_tower, tokenizer
        self._classnames, self._templates, self._dtype, self._compile = classnames, templates, dtype, compile
        self._tune: Tune = tune
        self._lock = threading.RLock()
        self._version = self._changes = 0
        self._encoders: Once[tuple[Encoder, Encoder | None]] = Once()
        self._look()
        self._head = self._make_head() if head is None else head

    def __reduce__(self) -> tuple[type[ModelState], tuple[Any, ...]]:
        self.refresh()
        return ModelState, (*self._made_of, self._head)

    @property
    def head(self) -> Head:
        """The head as of the last `refresh`."""
        return self._head

    def null_embedding(self) -> Tensor:
        """Computes the embedding of the templates without a class name: float32 [D], of unit length."""
        with self._lock:
            return null_embedding(self._image_tower.model, self._tokenizer, self._templates)

    @property
    def changes(self) -> int:
        """How often other weights were found; a move to another device does not count."""
        return self._changes

    def refresh(self) -> int:
        """Looks whether the weights have changed, and if so lets go of what was made of them.

        The encoders are made anew when they are next needed, the head at once if the text tower has
        changed.

        Returns:
            A version, which is another number once weights were replaced, written to or moved.

        Raises:
            InputError: For weights that are not float32, and for class weights or a scale that are not
                finite.
        """
        with self._lock:
            text_holds = self._text.holds()
            if text_holds and self._images.holds():
                return self._version
            self._look()
            check_float32(*self._models())
            self._encoders, self._version, self._changes = Once(), self._version + 1, self._changes + 1
            if not text_holds:
                self._head = self._make_head()
            return self._version

    def moved(self, function: Callable[[Tensor], Tensor]) -> None:
        """Follows a move of the towers to another device.

        Args:
            function: Takes a tensor to its new place; what `nn.Module._apply` was given.
        """
        with self._lock:
            self._head = Head(*map(function, self._head))
            self._encoders, self._version = Once(), self._version + 1
            self._look()

    def encoders(self) -> tuple[Encoder, Encoder | None]:
        """Returns the image tower's encoder, and the drift tower's or None."""
        return self._encoders.get(self._make_encoders)

    def _make_encoders(self) -> tuple[Encoder, Encoder | None]:
        drift_tower = self._drift_tower
        return self._encoder(self._image_tower), None if drift_tower is None else self._encoder(drift_tower)

    def _models(self) -> list[nn.Module]:
        return [tower.model for tower in (self._image_tower, self._drift_tower) if tower is not None]

    def _encoder(self, tower: ImageTower) -> Encoder:
        encoder = make_encoder(tower, dtype=self._dtype, tune=self._tune)
        return CompiledEncoder(encoder) if self._compile else encoder

    def _make_head(self) -> Head:
        model = self._image_tower.model
        weights = class_weights(model, self._tokenizer, self._classnames, self._templates)
        scale = torch.as_tensor(model.logit_scale).detach().float().exp().reshape(())
        if not (weights.isfinite().all() and scale.isfinite()):
            broken = int((~weights.isfinite()).any(dim=0).sum())
            raise InputError(
                f"expected finite class weights and logit_scale, got {broken} classes whose weights are not, "
                f"and the scale {scale.item():g}: the model's weights are broken"
            )
        return Head(weights.clone(memory_format=torch.contiguous_format), scale)

    def _look(self) -> None:
        towers = [tower for tower in (self._image_tower, self._drift_tower) if tower is not None]
        visuals = {module for tower in towers for module in tower.model.visual.modules()}
        model = self._image_tower.model
        self._images = Snapshot([*towers, *visuals])
        self._text = Snapshot(module for module in model.modules() if module not in visuals)


def check_float32(*models: nn.Module) -> None:
    """Checks that all parameters of models are float32 and can have gradients.

    Raises:
        InputError: For parameters of another dtype, and for those made in `torch.inference_mode`.
    """
    parameters = [p for model in models for p in model.parameters()]
    if any(p.is_inference() for p in parameters):
        raise InputError("expected a model that gradients go through, got one made in torch.inference_mode()")
    dtypes = {p.dtype for p in parameters}
    if dtypes != {torch.float32}:
        raise InputError(f"expected a float32 model, got parameters of {sorted(map(str, dtypes))}")
