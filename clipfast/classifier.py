"""DefendedClassifier: an open_clip model with the test-time counterattack in front of its zero-shot head."""

from __future__ import annotations

import copy
import functools
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict, TypeVar, Unpack, get_args

import torch
from torch import Tensor, nn

from . import ops
from .config import PUBLISHED_FOR, CounterattackConfig, Preset
from .defence import precision as precisions
from .defence.differentiable import DifferentiableDefence, Mode
from .defence.engine import Engine
from .defence.model_state import ModelState, Once, check_float32
from .defence.reference_engine import DefenceEngine, ReferenceEngine
from .defence.usable import check_usable
from .encoders import check_dtype, check_explicit
from .errors import GradientError, InputError, UncalibratedWarning, uncalibrated
from .inputs import draws
from .inputs.noise import Noise, NoiseSource, check_one_source
from .inputs.rules import NoiseKey, NoisePolicy, checked_integer
from .inputs.tensors import as_unit, check_noise, check_pixels
from .models.bundled import BundledName, bundled_defaults, bundled_folder, bundled_twin
from .models.checkpoint import load_image_tower
from .models.class_weights import Template, Tokenizer
from .models.fingerprint import fingerprint
from .models.loading import load_open_clip, source_of
from .models.tower import ImageTower
from .ops import Implementation
from .prediction import Prediction, Stats, StatsRecorder
from .preprocess import Preprocess
from .reference import Counterattacked

__all__ = ["DefendedClassifier"]

DEFAULT_TEMPLATES: tuple[Template, ...] = ("This is a photo of a {}.",)

_log = logging.getLogger(__name__)


class Options(TypedDict, total=False):
    """Keyword arguments of DefendedClassifier that its constructors pass on."""

    templates: Sequence[Template]
    config: CounterattackConfig | None
    implementation: Implementation | Literal["reference"]
    precision: str
    compile: bool
    noise_policy: NoisePolicy
    noise_key: NoiseKey


_Method = TypeVar("_Method", bound=Callable[..., Any])


class _Made(NamedTuple):
    """What a classifier made for one version of its weights."""

    version: int
    calibrated: bool
    engine: Once[DefenceEngine]


def _eager(method: _Method) -> _Method:
    """A method that torch.compile leaves alone: it would lose its way in the gate's batches of any size."""

    @functools.wraps(method)
    def call(*args: Any, **options: Any) -> Any:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(method)(*args, **options)
        return method(*args, **options)

    return call  # pyright: ignore[reportReturnType]


class DefendedClassifier(nn.Module):
    """Zero-shot classification by an open_clip model, defended at inference by TTC (arXiv 2503.03613).

    model: any open_clip model object. It is switched to eval mode and its parameters are frozen.
    tokenizer: the model's. classnames, templates: see `clipfast.models.class_weights.class_weights`.
    drift_model: the model that measures drift where `model` is adversarially fine-tuned: the original.
    `source` is the model's name and weights' where one of the constructors below loaded it, else None.
    implementation: "reference", the eager PyTorch of `clipfast.reference`, or the fast engine, with the
    operators between its passes by name, "naive", "triton" or "cpp", or "auto" (see `clipfast.ops`).
    precision: of the large products' operands in the engine, "fp32", "bf16" or "fp16"; on a CPU without
    bfloat16 units "bf16" warns and runs in fp32 (`precision` tells). compile: run the engine's towers
    through torch.compile, for batch sizes that others are padded to; call `warmup` before serving. (What
    torch.compile makes of the classifier itself runs as it is.)
    noise_policy: "fresh" draws new noise each call; "content" keys it by `noise_key` (secret; 16 to 64
    bytes; drawn when None) and the image's bytes, so that an image always gets the same answer and an
    attacker no free retries (the same to rounding: batches of other sizes round otherwise). One changed
    byte redraws.

    On a CPU the engine re-lays the image tower's weights for both directions when it is first used, beside
    the model's own, which `undefended` and `differentiable` use: in float32 two more copies of the tower,
    in bfloat16 or float16 two halves.

    Warns with UncalibratedWarning where config.tau_threshold was not calibrated for this model. Raises
    InputError for bad class names, templates, options and configs. A test-time defence is not a certified
    one: see SECURITY.md.
    """

    @torch.inference_mode(False)  # what is made in it is of no use outside
    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        classnames: Sequence[str],
        *,
        templates: Sequence[Template] = DEFAULT_TEMPLATES,
        config: CounterattackConfig | None = None,
        drift_model: nn.Module | None = None,
        implementation: Implementation | Literal["reference"] = "auto",
        precision: str = "fp32",
        compile: bool = False,
        noise_policy: NoisePolicy = "fresh",
        noise_key: NoiseKey = None,
        _source: tuple[str, str | None] | None = None,
    ) -> None:
        super().__init__()
        if implementation not in (known := (*get_args(Implementation), "reference")):
            raise InputError(f"implementation must be one of {known}, got {implementation!r}")
        if implementation == "reference" and (precision != "fp32" or compile):
            raise InputError("implementation 'reference' is eager float32: no other precision, no compile")
        self.precision = precisions.resolve(precision, next(model.parameters()).device)
        self._noises = NoiseSource(noise_policy, noise_key)
        for what, given in (("class names", classnames), ("templates", templates)):
            if isinstance(given, str):
                raise InputError(f"expected a sequence of {what}, got the string {given!r}")
        check_float32(*(m for m in (model, drift_model) if m is not None))
        self.config = config if config is not None else CounterattackConfig()
        self.classnames, self.templates = tuple(classnames), tuple(templates)
        self.preprocess = Preprocess.from_open_clip(model)
        self.image_tower = ImageTower(model)
        self.drift_tower = None
        if drift_model is not None:
            self.drift_tower = ImageTower(drift_model)
            if self.drift_tower.image_size != self.image_tower.image_size:
                raise InputError(
                    f"expected a drift_model for images of {self.image_tower.image_size}, "
                    f"got one for {self.drift_tower.image_size}"
                )
        for tower in (self.image_tower, self.drift_tower):
            if tower is not None and implementation != "reference":
                check_dtype(tower, precisions.dtype_of(self.precision))
        self._check_depth(self.config, implementation)
        self._state = ModelState(
            self.image_tower,
            self.drift_tower,
            tokenizer,
            self.classnames,
            self.templates,
            precisions.dtype_of(self.precision),
            compile,
        )
        self.eval().requires_grad_(False)
        self._implementation: Implementation | Literal["reference"] = implementation
        self._stats = StatsRecorder()
        self._made: _Made | None = None
        self._source = _source
        if not self._follow().calibrated:
            warnings.warn(uncalibrated(self.config.tau_threshold), UncalibratedWarning, stacklevel=2)

    @classmethod
    def from_open_clip(
        cls,
        model_name: str,
        pretrained: str | Path | None,
        classnames: Sequence[str],
        *,
        device: str | torch.device = "cpu",
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        **options: Unpack[Options],
    ) -> DefendedClassifier:
        """A classifier over a model of open_clip's registry.

        model_name: a registry name, or with pretrained=None "hf-hub:org/repo" or a bundled model's name.
        pretrained: a registry tag, a local .safetensors, .pt, .pth or .bin file (tensors only; pickled code
        is refused), or None for random weights. local_files_only: download nothing. options: keyword
        arguments of the class. Raises InputError for unknown names, weights that do not fit, QuickGELU
        weights in a GELU model or the reverse, and a model that brings code to run.
        """
        model, tokenizer = load_open_clip(
            model_name, pretrained, device=device, cache_dir=cache_dir, local_files_only=local_files_only
        )
        return cls(model, tokenizer, classnames, _source=source_of(model_name, pretrained), **options)

    @classmethod
    @torch.inference_mode(False)
    def from_finetuned(
        cls,
        model_name: str,
        pretrained: str | Path | None,
        checkpoint: str | os.PathLike[str],
        classnames: Sequence[str],
        *,
        device: str | torch.device = "cpu",
        cache_dir: str | Path | None = None,
        **options: Unpack[Options],
    ) -> DefendedClassifier:
        """A classifier over an adversarially fine-tuned image tower (TeCoA, PMG-AFT, FARE, AdvFLYP).

        model_name, pretrained: the original model, which measures drift and gives the text tower.
        checkpoint: the fine-tuned image tower, a dict with `vision_encoder_state_dict` or a plain state
        dict. The rest as for `from_open_clip`. Raises InputError where keys or shapes do not fit.
        """
        original, tokenizer = load_open_clip(model_name, pretrained, device=device, cache_dir=cache_dir)
        tuned = copy.deepcopy(original)
        load_image_tower(tuned.visual, checkpoint)  # pyright: ignore[reportArgumentType]
        source = source_of(model_name, pretrained)
        return cls(tuned, tokenizer, classnames, drift_model=original, _source=source, **options)

    @classmethod
    def bundled(
        cls,
        name: BundledName = "drawn",
        classnames: Sequence[str] | None = None,
        *,
        preset: Preset = "recommended",
        finetuned: bool = False,
        device: str | torch.device = "cpu",
        **options: Unpack[Options],
    ) -> DefendedClassifier:
        """A tiny CLIP that comes with clipfast, with its own class names and calibrated thresholds.

        name: "drawn", of coloured shapes, or "photographs", of CIFAR-10. preset: whose settings, unless
        options have a config. finetuned: its adversarially fine-tuned twin instead, with the gate measured by
        the original. The models show the mechanism; they are no evidence about real CLIP. Raises InputError
        for another name, for a twin that there is not, and for words that the model does not know.
        """
        defaults = bundled_defaults(bundled_folder(name), preset)
        names = defaults.classnames if classnames is None else classnames
        if options.get("config") is None:
            options["config"] = defaults.config
        if finetuned:
            if (checkpoint := bundled_twin(name)) is None:
                raise InputError(f"the bundled model {name!r} has no fine-tuned twin")
            return cls.from_finetuned(name, None, checkpoint, names, device=device, **options)
        return cls.from_open_clip(name, None, names, device=device, **options)

    def with_config(self, config: CounterattackConfig, *, on_trial: bool = False) -> DefendedClassifier:
        """The same weights, class names and options with other settings; its engine and stats are its own.

        Both run on the same packed copies of the weights. Warns as the class does, but not where the settings
        are on_trial: measured or attacked, not relied on.
        """
        self._check_depth(config, self._implementation)
        other = copy.copy(self)
        other._modules, other._stats, other._made = self._modules.copy(), StatsRecorder(), None
        other.config = config
        if not other._follow().calibrated and not on_trial:
            warnings.warn(uncalibrated(config.tau_threshold), UncalibratedWarning, stacklevel=2)
        return other

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the pixels that the model takes."""
        return self.image_tower.image_size

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.image_tower.mean.device

    @property
    def noise_policy(self) -> NoisePolicy:
        """How noise is drawn that a call does not give: "fresh" or "content"."""
        return self._noises.policy

    @property
    def class_weights(self) -> Tensor:
        """The zero-shot classifier: float32 [D, C], columns of unit length."""
        self._follow()
        return self._state.head.class_weights

    @property
    def null_embedding(self) -> Tensor:
        """The embedding of the templates without a class name: float32 [D], of unit length."""
        self._follow()
        return self._state.null_embedding()

    @property
    def logit_scale(self) -> Tensor:
        """What cosines are multiplied with: float32, a scalar."""
        self._follow()
        return self._state.head.logit_scale

    @property
    def calibrated(self) -> bool:
        """Whether config.tau_threshold was calibrated for the weights that measure drift now."""
        return self._follow().calibrated

    @property
    def source(self) -> tuple[str, str | None] | None:
        """The model's name and its weights', where a constructor loaded it and they are still those."""
        self._follow()
        return self._source

    @property
    def drift_weights(self) -> str:
        """The fingerprint of the image tower that measures drift, whose thresholds are calibrated."""
        return fingerprint(self.measuring_tower.model.visual)

    @property
    def measuring_tower(self) -> ImageTower:
        """What the gate measures by: `drift_tower` where there is one."""
        return self.image_tower if self.drift_tower is None else self.drift_tower

    def train(self, mode: bool = True) -> DefendedClassifier:  # noqa: ARG002
        """Stays in eval mode, whatever mode a surrounding module is put into."""
        return super().train(False)

    @_eager
    def forward(self, pixels: Tensor) -> Tensor:
        """Defended logits: float32 [N, C], of pixels [N, 3, H, W], uint8 or float in [0, 1].

        Raises InputError for bad pixels and GradientError for pixels that require grad.
        """
        return self.predict(pixels, with_undefended=False).logits

    @_eager
    def predict(
        self,
        pixels: Tensor,
        *,
        noise: Tensor | None = None,
        seed: int | None = None,
        first_image: int = 0,
        with_delta: bool = False,
        with_undefended: bool = True,
    ) -> Prediction[Tensor]:
        """Classifies pixels [N, 3, H, W], uint8 or float in [0, 1]; N may be 0.

        noise: the caller's own start, float [N, 3, H, W] within eps (U(-eps, eps) as published). seed: makes
        the call reproducible; image i's noise then depends on the seed and first_image + i alone, so a long
        list may be cut into batches of any size. with_delta: keep the counter-perturbation. with_undefended:
        plain CLIP's logits too; else NaN where they cost a pass more. Raises InputError for bad pixels or
        noise, for both noise and seed, and for a drift that is not finite; GradientError for pixels that
        require grad, unless gradients are switched off (`no_grad`).
        """
        if isinstance(pixels, Tensor) and pixels.requires_grad and torch.is_grad_enabled():
            raise GradientError(
                "a defended classifier has no honest gradient to its pixels; attack it through "
                "differentiable('bpda') or differentiable('unrolled'), or detach the pixels"
            )
        # The defence lives off differences that an autocast forward pass would round away.
        full = torch.autocast(self.device.type, enabled=False)
        with torch.inference_mode(False), torch.no_grad(), full:
            made = self._follow()
            engine = made.engine.get(self._make_engine)
            x = check_pixels(pixels, self.image_size, on_gpu=not engine.marks_pixels).to(self.device)
            start = self._noise(x, noise, seed, first_image)
            if len(x):
                result = engine.run(x, start, with_delta=with_delta, with_clean=with_undefended)
                check_usable(result, x, with_clean=with_undefended)
            else:
                result = self._of_nothing(as_unit(x))
            prediction = Prediction(
                logits=self._head(result.embedding),
                undefended_logits=self._head(result.clean_embedding),
                embedding=result.embedding,
                drift=result.drift,
                countered=result.countered,
                delta=result.delta if with_delta else None,
                classnames=self.classnames,
                calibrated=made.calibrated,
            )
        self._stats.add(prediction)
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("countered %d of %d images", int(prediction.countered.sum()), len(x))
        return prediction

    def undefended(self, pixels: Tensor) -> Tensor:
        """Plain CLIP's logits: float32 [N, C]. Differentiable, for attackers of the undefended model."""
        self._follow()
        x = as_unit(check_pixels(pixels, self.image_size, on_gpu=True).to(self.device))
        if len(x) == 0:
            return x.new_zeros(0, len(self.classnames))
        return self._head(self.image_tower(x), "naive")

    def differentiable(self, mode: Mode) -> DifferentiableDefence:
        """The defence as a module with gradients, for attackers: see `DifferentiableDefence`."""
        return DifferentiableDefence(
            mode,
            config=self.config,
            image_tower=self.image_tower,
            drift_tower=self.drift_tower,
            head=lambda embedding: self._head(embedding, "naive"),
            engine=lambda: self.engine,
        )

    def warmup(self, batch_sizes: Iterable[int] = (1,)) -> None:
        """Does now what the first call of each of these batch sizes would wait for: packing, compiling."""
        sizes = [checked_integer("a batch size", size, 2**31, start=1) for size in batch_sizes]
        self.engine.warmup(sizes)
        width = self.class_weights.shape[0]
        for n in sizes:
            self._head(torch.ones(n, width, device=self.device))

    @property
    def engine(self) -> DefenceEngine:
        """What runs the defence on the weights as they are; made when it is first needed."""
        return self._follow().engine.get(self._make_engine)

    def stats(self) -> Stats:
        """Images, countered, changed and the drift histogram since the start or `reset_stats`."""
        return self._stats.read()

    def reset_stats(self) -> None:
        """Sets the counts of `stats` back to zero."""
        self._stats.reset()

    def _check_depth(self, config: CounterattackConfig, implementation: str) -> None:
        """Raises InputError for a gate_depth that the tower, or the engine's form of it, does not have."""
        self.measuring_tower.check_depth(config)
        if config.gate_depth is not None and implementation != "reference":
            check_explicit(self.measuring_tower, "no gate_depth", "it needs")

    def _follow(self) -> _Made:
        """What was made for the weights, anew where they have changed or moved."""
        version, made = self._state.refresh(), self._made
        if made is not None and made.version == version:
            return made
        if self._state.changes:  # these are not the weights that were loaded
            self._source = None
        calibrated = self._is_calibrated()
        if made is not None and made.calibrated and not calibrated:
            warnings.warn(uncalibrated(self.config.tau_threshold), UncalibratedWarning, stacklevel=3)
        self._made = _Made(version, calibrated, Once())
        return self._made

    def _make_engine(self) -> DefenceEngine:
        if self._implementation == "reference":
            return ReferenceEngine(self.image_tower, self.config, self.drift_tower)
        encoder, drift_encoder = self._state.encoders()
        return Engine(
            encoder,
            self.config,
            drift_encoder=drift_encoder,
            image_size=self.image_size,
            device=self.device,
            implementation=self._implementation,
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DefendedClassifier:
        if (dtype := fn(torch.zeros((), device=self.device)).dtype) != torch.float32:
            raise InputError(
                f"expected weights that stay in float32, got {dtype}: the gate lives off small differences; "
                "DefendedClassifier(precision=) lowers the precision of large products alone"
            )
        self._state.refresh()
        super()._apply(fn, recurse)
        self._state.moved(fn)
        return self

    def _noise(self, x: Tensor, noise: Tensor | None, seed: int | None, first_image: int) -> Noise[Tensor]:
        check_one_source(noise, seed)
        if noise is not None:
            return Noise(check_noise(noise, x, self.config))
        keys = self._noises.keys(
            len(x), seed=seed, first_image=first_image, pictures=lambda: as_unit(x).detach().cpu().numpy()
        )
        return draws.fresh(len(x), x.device) if keys is None else draws.to_tensors(keys, x.device)

    def _head(self, embedding: Tensor, implementation: Implementation | None = None) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            return ops.zero_shot_head(
                embedding.float().contiguous(),
                *self._state.head,
                implementation=implementation or self._operators,
            )

    def _of_nothing(self, x: Tensor) -> Counterattacked:
        """What is found of no images, [0, 3, H, W]."""
        none, embedding = x.new_zeros(0), x.new_zeros(0, self._state.head.class_weights.shape[0])
        return Counterattacked(embedding, embedding, none, none.bool(), x)

    @property
    def _operators(self) -> Implementation:
        return "naive" if self._implementation == "reference" else self._implementation

    def _is_calibrated(self) -> bool:
        if (config := self.config).calibrated_for is not None:
            return config.is_calibrated(self.drift_weights)
        return config.gate == "none" or (self._source in PUBLISHED_FOR and config.gates_as_published())
