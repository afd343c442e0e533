"""DefendedClassifier: an open_clip model with the test-time counterattack in front of its zero-shot head."""

from __future__ import annotations

import copy
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, TypedDict, TypeVar, Unpack, get_args

import torch
from torch import Tensor, nn

from . import ops
from .config import CounterattackConfig
from .defence import precision as precisions
from .defence.differentiable import DifferentiableDefence, Mode
from .defence.engine import Engine
from .defence.schedule import Defended
from .encoders import CompiledEncoder, Encoder, check_dtype, make_encoder
from .errors import GradientError, InputError, UncalibratedWarning, uncalibrated
from .inputs import draws
from .inputs.draws import Draw
from .inputs.rules import NoisePolicy, checked_integer, checked_noise_key
from .inputs.tensors import as_unit, check_noise, check_pixels, check_range
from .models.bundled import BUNDLED, BUNDLED_DIR, load_bundled
from .models.checkpoint import load_image_tower
from .models.class_weights import Template, Tokenizer, class_weights
from .models.fingerprint import fingerprint
from .models.loading import brings_weights, load_open_clip
from .models.tower import ImageTower
from .ops import Implementation
from .prediction import Prediction, Stats, StatsRecorder
from .preprocess import Preprocess
from .reference import counterattack_early_return

__all__ = ["DefendedClassifier"]

DEFAULT_TEMPLATES: tuple[Template, ...] = ("This is a photo of a {}.",)

# The published threshold, 0.2, was chosen for OpenAI's ViT-B/32 and counts as calibrated there only.
_PUBLISHED_MODELS = {("ViT-B-32-quickgelu", "openai")}

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Options(TypedDict, total=False):
    """Keyword arguments of DefendedClassifier that its constructors pass on."""

    templates: Sequence[Template]
    config: CounterattackConfig | None
    implementation: Implementation | Literal["reference"]
    precision: str
    compile: bool
    noise_policy: NoisePolicy
    noise_key: bytes | None


class _Slot(Generic[T]):
    """Holds what is made once; empty in copies, because packed weights cannot be copied."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: T | None = None

    def get(self, make: Callable[[], T]) -> T:
        with self._lock:
            if self._made is None:
                self._made = make()
            return self._made

    def __reduce__(self) -> tuple[type[_Slot[T]], tuple[()]]:
        return _Slot, ()


def _named(model_name: str, pretrained: str | Path | None) -> tuple[str, str | None]:
    """A model's name and its weights', in open_clip's words; of a file of weights its name."""
    name = model_name if brings_weights(model_name) else model_name.replace("/", "-")
    return name, None if pretrained is None else Path(pretrained).name


def _forget_engine(classifier: nn.Module, _: object) -> None:
    """Other weights were loaded: the engine's copies are stale."""
    assert isinstance(classifier, DefendedClassifier)
    classifier._forget()


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
    through torch.compile, for batch sizes that others are padded to; call `warmup` before serving.
    noise_policy: "fresh" draws new noise each call; "content" keys it by `noise_key` (secret; 16 to 64
    bytes; drawn when None) and the image's bytes, so that an image always gets the same answer and an
    attacker no free retries (the same to rounding: batches of other sizes round otherwise). One changed
    byte redraws.

    On a CPU the engine re-lays the image tower's weights for both directions when it is first used, beside
    the model's own, which `undefended` and `differentiable` use: in float32 two more copies of the tower,
    in bfloat16 or float16 two halves.

    Warns with UncalibratedWarning where config.tau_threshold was not calibrated for this model.
    Raises InputError for bad class names, templates, options and configs.

    A randomised defence that optimises at inference is not a certified one: see SECURITY.md.
    """

    class_weights: Tensor
    logit_scale: Tensor

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
        noise_key: bytes | None = None,
        _source: tuple[str, str | None] | None = None,
    ) -> None:
        super().__init__()
        if implementation not in (known := (*get_args(Implementation), "reference")):
            raise InputError(f"implementation must be one of {known}, got {implementation!r}")
        if implementation == "reference" and (precision != "fp32" or compile):
            raise InputError("implementation 'reference' is eager float32: no other precision, no compile")
        self.precision = precisions.resolve(precision, next(model.parameters()).device)
        self._noise_key = checked_noise_key(noise_policy, noise_key)
        if isinstance(classnames, str):
            raise InputError(f"expected a sequence of class names, got the string {classnames!r}")
        if isinstance(templates, str):
            raise InputError(f"expected a sequence of templates, got the string {templates!r}")
        dtypes = {p.dtype for m in (model, drift_model) if m is not None for p in m.parameters()}
        if dtypes != {torch.float32}:
            raise InputError(f"expected a float32 model, got parameters of {sorted(map(str, dtypes))}")
        self.config = config if config is not None else CounterattackConfig()
        self.classnames = tuple(classnames)
        self.templates = tuple(templates)
        self.noise_policy: NoisePolicy = noise_policy
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
        weights = class_weights(model, tokenizer, self.classnames, self.templates)
        self.eval().requires_grad_(False)
        weights = weights.clone(memory_format=torch.contiguous_format)
        self.register_buffer("class_weights", weights, persistent=False)
        scale = torch.as_tensor(model.logit_scale).detach().float().exp().reshape(())
        self.register_buffer("logit_scale", scale, persistent=False)
        self._stats = StatsRecorder()
        self._by_reference, self._compile = implementation == "reference", compile
        self._operators: Implementation = "naive" if implementation == "reference" else implementation
        self._forget()
        self.register_load_state_dict_post_hook(_forget_engine)
        self.source = _source
        self.calibrated = self._is_calibrated()
        if not self.calibrated:
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
        **options: Unpack[Options],
    ) -> DefendedClassifier:
        """A classifier over a model of open_clip's registry.

        model_name: a registry name, or "hf-hub:org/repo" or "bundled" with pretrained=None. pretrained: a
        registry tag, a local .safetensors, .pt, .pth or .bin file (tensors only; pickled code is refused),
        or None for random weights. options: keyword arguments of the class. Raises InputError for unknown
        names, weights that do not fit, and QuickGELU weights in a GELU model or the reverse.
        """
        model, tokenizer = load_open_clip(model_name, pretrained, device=device, cache_dir=cache_dir)
        return cls(model, tokenizer, classnames, _source=_named(model_name, pretrained), **options)

    @classmethod
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
        source = _named(model_name, pretrained)
        return cls(tuned, tokenizer, classnames, drift_model=original, _source=source, **options)

    @classmethod
    def bundled(
        cls,
        classnames: Sequence[str] | None = None,
        *,
        finetuned: bool = False,
        device: str | torch.device = "cpu",
        **options: Unpack[Options],
    ) -> DefendedClassifier:
        """The tiny CLIP that comes with clipfast, with its own class names and calibrated threshold.

        finetuned: its adversarially fine-tuned twin instead, with drift measured by the original. The
        model shows the mechanism on drawn shapes; it is no evidence about real CLIP.
        """
        original = load_bundled(device)
        names = original.classnames if classnames is None else classnames
        if options.get("config") is None:
            options["config"] = original.config
        if finetuned:
            return cls.from_finetuned(
                BUNDLED, None, BUNDLED_DIR / "tecoa.pt", names, device=device, **options
            )
        return cls(original.model, original.tokenizer, names, _source=(BUNDLED, None), **options)

    def with_config(self, config: CounterattackConfig) -> DefendedClassifier:
        """The same weights, class names and options with other settings; its engine and stats are its own.

        Both run on the same packed copies of the weights, until one of them is moved or loads others.

        Warns as the class does where config.tau_threshold was not calibrated for this model.
        """
        other = copy.copy(self)
        other._modules, other._buffers = self._modules.copy(), self._buffers.copy()
        other.config, other._engine, other._stats = config, _Slot(), StatsRecorder()
        other.calibrated = other._is_calibrated()
        if not other.calibrated:
            warnings.warn(uncalibrated(config.tau_threshold), UncalibratedWarning, stacklevel=2)
        return other

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the pixels that the model takes."""
        return self.image_tower.image_size

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.class_weights.device

    @property
    def drift_weights(self) -> str:
        """The fingerprint of the image tower that measures drift, whose thresholds are calibrated."""
        tower = self.image_tower if self.drift_tower is None else self.drift_tower
        return fingerprint(tower.model.visual)

    def train(self, mode: bool = True) -> DefendedClassifier:  # noqa: ARG002
        """Stays in eval mode, whatever mode a surrounding module is put into."""
        return super().train(False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Defended logits: float32 [N, C], of pixels [N, 3, H, W], uint8 or float in [0, 1].

        Raises InputError for bad pixels and GradientError for pixels that require grad.
        """
        return self.predict(pixels).logits

    def predict(
        self,
        pixels: Tensor,
        *,
        noise: Tensor | None = None,
        seed: int | None = None,
        first_image: int = 0,
        with_delta: bool = False,
    ) -> Prediction[Tensor]:
        """Classifies pixels [N, 3, H, W], uint8 or float in [0, 1]; N may be 0.

        noise: the caller's own start, float [N, 3, H, W] within eps (U(-eps, eps) as published). seed: makes
        the call reproducible; image i's noise then depends on the seed and first_image + i alone, so a long
        list may be cut into batches of any size. with_delta: keep the counter-perturbation. Raises
        InputError for bad pixels or noise, for both noise and seed, and for a drift that is not finite;
        GradientError for pixels that require grad, unless gradients are switched off (`no_grad`).
        """
        if isinstance(pixels, Tensor) and pixels.requires_grad and torch.is_grad_enabled():
            raise GradientError(
                "a defended classifier has no honest gradient to its pixels; attack it through "
                "differentiable('bpda') or differentiable('unrolled'), or detach the pixels"
            )
        # The defence lives off differences that an autocast forward pass would round away.
        full = torch.autocast(self.device.type, enabled=False)
        with torch.inference_mode(False), torch.no_grad(), full:
            x = check_pixels(pixels, self.image_size).to(self.device)
            start = self._start(x, noise, seed, first_image)
            if len(x) == 0:
                return self._empty(as_unit(x), with_delta)
            result = self._counterattack(x, start, with_delta)
            prediction = Prediction(
                logits=self._head(result.embedding),
                undefended_logits=self._head(result.clean_embedding),
                embedding=result.embedding,
                drift=result.drift,
                countered=result.countered,
                delta=result.delta if with_delta else None,
                classnames=self.classnames,
                calibrated=self.calibrated,
            )
        self._stats.add(prediction)
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("countered %d of %d images", int(prediction.countered.sum()), len(x))
        return prediction

    def undefended(self, pixels: Tensor) -> Tensor:
        """Plain CLIP's logits: float32 [N, C]. Differentiable, for attackers of the undefended model."""
        x = as_unit(check_pixels(pixels, self.image_size).to(self.device))
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
            head=partial(self._head, implementation="naive"),
            draw_noise=self._draw_noise,
            embed=self._embed_with_gradient,
            counter=self._delta,
        )

    def warmup(self, batch_sizes: Iterable[int] = (1,)) -> None:
        """Does now what the first call of each of these batch sizes would wait for: packing, compiling."""
        if not self._by_reference:
            self.engine.warmup(batch_sizes)

    @property
    def engine(self) -> Engine:
        """What runs the defence; made when it is first needed."""
        return self._engine.get(self._make_engine)

    def stats(self) -> Stats:
        """Images, countered, changed and the drift histogram since the start or `reset_stats`."""
        return self._stats.read()

    def reset_stats(self) -> None:
        """Sets the counts of `stats` back to zero."""
        self._stats.reset()

    def _make_engine(self) -> Engine:
        encoder, drift_encoder = self._encoders.get(self._make_encoders)
        return Engine(
            encoder,
            self.config,
            drift_encoder=drift_encoder,
            image_size=self.image_size,
            device=self.device,
            implementation=self._operators,
        )

    def _make_encoders(self) -> tuple[Encoder, Encoder | None]:
        drift_tower = self.drift_tower
        return self._encoder(self.image_tower), None if drift_tower is None else self._encoder(drift_tower)

    def _encoder(self, tower: ImageTower) -> Encoder:
        encoder = make_encoder(tower, dtype=precisions.dtype_of(self.precision))
        return CompiledEncoder(encoder) if self._compile else encoder

    def _apply(self, *args: Any, **kwargs: Any) -> DefendedClassifier:
        self._forget()
        return super()._apply(*args, **kwargs)

    def _forget(self) -> None:
        """Parameters are moved or replaced: the engine's packed copies are stale."""
        self._engine: _Slot[Engine] = _Slot()
        self._encoders: _Slot[tuple[Encoder, Encoder | None]] = _Slot()

    def _counterattack(self, x: Tensor, start: Tensor | Draw, with_delta: bool) -> Defended:
        if self._by_reference:
            noise = draws.draw_noise(start, x.shape, self.config) if isinstance(start, Draw) else start
            result = Defended(
                *counterattack_early_return(
                    self.image_tower, as_unit(x), noise, self.config, drift_encode=self.drift_tower
                )
            )
        else:
            result = self.engine.run(x, start, with_delta=with_delta)
        if self.drift_tower is not None and self.config.pass_through == "noise":
            passed = ~result.countered  # their f(x) was not needed until now
            if passed.any():
                result.clean_embedding[passed] = self._embed(as_unit(x[passed]))
        lengths = torch.stack([e.norm(dim=1) for e in (result.embedding, result.clean_embedding)])
        # NaN compares false, and would else pass as "not below the threshold".
        usable = result.drift.isfinite() & ((lengths > 0) & lengths.isfinite()).all(dim=0)
        if not usable.all():
            check_range(as_unit(x))
            rows = (~usable).nonzero().flatten().tolist()
            raise InputError(
                f"expected a finite drift and embeddings, got drift {result.drift[rows[:4]].tolist()} for "
                f"images {rows[:4]}: the model gives no usable embedding for them"
            )
        return result

    def _start(self, x: Tensor, noise: Tensor | None, seed: int | None, first_image: int) -> Tensor | Draw:
        if noise is not None:
            if seed is not None:
                raise InputError("expected noise or seed, got both")
            return check_noise(noise, x, self.config)
        if seed is not None:
            first = checked_integer("first_image", first_image, 2**32 - len(x) + 1)
            return draws.seeded(checked_integer("seed", seed, 2**64), first, len(x), x.device)
        if self.noise_policy == "content":
            return draws.by_content(x, self._noise_key)
        return draws.fresh(len(x), x.device)

    def _draw_noise(self, x: Tensor) -> Tensor:
        """Noise for attackers, from torch's generator."""
        draw = draws.seeded(draws.torch_seed(), 0, len(x), x.device)
        return draws.draw_noise(draw, x.shape, self.config)

    def _embed(self, x: Tensor) -> Tensor:
        if self._by_reference:
            return self.image_tower(x)
        return self.engine.embed(x)

    def _embed_with_gradient(self, x: Tensor) -> Tensor:
        """For attackers, in float32. The last resort of encoders would spend a forward pass more."""
        if not (x.requires_grad and torch.is_grad_enabled()):
            return self._embed(x)
        if self._by_reference or self.precision != "fp32" or self.engine.encoder.form == "autograd":
            return self.image_tower(x)
        return self.engine.embed_with_gradient(x)

    def _delta(self, x: Tensor, noise: Tensor) -> Tensor:
        """For attackers: what the defence adds to x, constant."""
        if self._by_reference:
            return counterattack_early_return(
                self.image_tower, x, noise, self.config, drift_encode=self.drift_tower
            ).delta
        with torch.autocast(self.device.type, enabled=False):
            delta = self.engine.run(x.contiguous(), noise.contiguous()).delta
        assert delta is not None
        return delta

    def _head(self, embedding: Tensor, implementation: Implementation | None = None) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            return ops.zero_shot_head(
                embedding.float().contiguous(),
                self.class_weights,
                self.logit_scale,
                implementation=implementation or self._operators,
            )

    def _empty(self, x: Tensor, with_delta: bool) -> Prediction[Tensor]:
        logits = x.new_zeros(0, len(self.classnames))
        return Prediction(
            logits=logits,
            undefended_logits=logits.clone(),
            embedding=x.new_zeros(0, self.class_weights.shape[0]),
            drift=x.new_zeros(0),
            countered=torch.zeros(0, dtype=torch.bool, device=x.device),
            delta=x.clone() if with_delta else None,
            classnames=self.classnames,
            calibrated=self.calibrated,
        )

    def _is_calibrated(self) -> bool:
        if self.config.calibrated_for is not None:
            return self.config.is_calibrated(self.drift_weights)
        measured_with = ("gate", "tau_threshold", "eps", "norm")
        default = CounterattackConfig.published()
        return self.source in _PUBLISHED_MODELS and all(
            getattr(self.config, n) == getattr(default, n) for n in measured_with
        )
