"""DefendedClassifier: an open_clip model with the test-time counterattack before its zero-shot head."""

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
from .defence.tallying import tally
from .defence.usable import check_usable
from .encoders import Tune, check_dtype, check_explicit, check_tune
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
    """Keyword arguments of `DefendedClassifier` that its constructors pass on; see there."""

    templates: Sequence[Template]
    config: CounterattackConfig | None
    implementation: Implementation | Literal["reference"]
    precision: str
    compile: bool
    tune: Tune
    noise_policy: NoisePolicy
    noise_key: NoiseKey


_Method = TypeVar("_Method", bound=Callable[..., Any])


class _Made(NamedTuple):
    """What a classifier made for one version of its weights."""

    version: int
    calibrated: bool
    engine: Once[DefenceEngine]


def _eager(method: _Method) -> _Method:
    """A method that torch.compile leaves alone, as it cannot follow the gate's batches of any size."""

    @functools.wraps(method)
    def call(*args: Any, **options: Any) -> Any:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(method)(*args, **options)
        return method(*args, **options)

    return call  # pyright: ignore[reportReturnType]


class DefendedClassifier(nn.Module):
    """Zero-shot classification by an open_clip model, defended at inference.

    A test-time defence is not a certified one: see SECURITY.md.

    On a CPU the fast engine re-lays the image tower's weights for both directions when it is first used.
    These are copies beside the model's own weights: up to two more of the tower in float32, two of half
    the size in bfloat16 or float16. `undefended` uses the model's own weights, as does `differentiable`
    if the engine has no exact gradient.

    If the classifier itself is put through torch.compile, `forward` and `predict` run uncompiled.

    Args:
        model: Any open_clip model, float32. It is switched to eval mode and its parameters are frozen.
        tokenizer: The model's tokenizer.
        classnames: Names of the C classes, see `clipfast.models.class_weights.class_weights`.
        templates: Templates of prompts, see there: strings with "{}" where the class name goes, or
            functions of the class name.
        config: Settings of the defence; the published ones if None.
        drift_model: The model that the gate measures with if `model` is adversarially fine-tuned: the
            original.
        implementation: "reference", the eager PyTorch of `clipfast.reference`; else the fast engine, with
            the operators between its passes by name: "naive", "triton" or "cpp", or "auto" (see
            `clipfast.ops`).
        precision: Of the large products' operands in the engine: "fp32", "bf16" or "fp16". On a CPU
            without bfloat16 units "bf16" warns and runs in fp32. Only "fp32" with "reference".
        compile: Whether to run the engine's towers through torch.compile, for batch sizes that others are
            padded to. Call `warmup` before serving. Not with "reference".
        tune: How the engine's forms of products, attention and batches are chosen on a CPU. True tries them
            when the engine is first needed, which takes a second or two for a large tower. False takes the
            forms that were the fastest on the machines of benchmarks/README.md. A name ("split", "mkl",
            "onednn" or "plain") takes that form of products. `clipfast.implementations()` tells what was
            found; answers differ by rounding alone.
        noise_policy: "fresh" draws new noise at each call. "content" keys it by `noise_key` and the
            image's pixels, so that an image always gets the same answer, and an attacker no free retries.
            (The same to rounding: batches of other sizes round otherwise.) One changed byte of a uint8
            image draws other noise.
        noise_key: Secret key of the policy "content": 16 to 64 bytes, or a file of them that its owner
            alone may read; drawn if None.

    Attributes:
        config: As given, or the default.
        classnames: As given, as a tuple.
        templates: As given, as a tuple.
        precision: The precision that the engine runs in, which may differ from the one asked for.
        preprocess: The model's own `clipfast.preprocess.Preprocess`.
        image_tower: The model's image tower, f.
        drift_tower: The image tower of `drift_model`, or None.

    Raises:
        InputError: For bad class names, templates, options and configs, and for models that are not
            float32, are on a device other than a CPU or a CUDA GPU, or differ in image size.

    Warns:
        UncalibratedWarning: If config.tau_threshold was not calibrated for this model.
        RuntimeWarning: If "bf16" runs in fp32.
    """

    @torch.inference_mode(False)  # tensors made in inference mode cannot be used outside of it
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
        tune: Tune = True,
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
        check_tune(tune, precisions.dtype_of(self.precision))
        self._state = ModelState(
            self.image_tower,
            self.drift_tower,
            tokenizer,
            self.classnames,
            self.templates,
            precisions.dtype_of(self.precision),
            compile,
            tune,
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
        """Makes a classifier over a model of open_clip's registry.

        Args:
            model_name: A name of the registry, or with pretrained=None "hf-hub:org/repo" or a bundled
                model's name.
            pretrained: A tag of the registry, a local .safetensors, .pt, .pth or .bin file (of tensors
                only; pickled code is refused), or None: the weights that the name stands for, or else
                random ones.
            classnames: Names of the C classes.
            device: Where the model goes.
            cache_dir: Where downloads are kept; None for the default places.
            local_files_only: Whether to download nothing.
            options: Keyword arguments of the class.

        Raises:
            InputError: For unknown names, weights that do not fit, QuickGELU weights in a GELU model or
                the reverse, a model that brings code to run, and all that the class refuses.
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
        """Makes a classifier over an adversarially fine-tuned image tower.

        Such towers are those of TeCoA, PMG-AFT, FARE and AdvFLYP.

        Args:
            model_name: The original model, which the gate measures with and which gives the text tower,
                as for `from_open_clip`.
            pretrained: The original model's weights, as for `from_open_clip`.
            checkpoint: The file of the fine-tuned image tower: a dict with `vision_encoder_state_dict`,
                or a plain state dict.
            classnames: Names of the C classes.
            device: Where the models go.
            cache_dir: Where downloads are kept; None for the default places.
            options: Keyword arguments of the class.

        Raises:
            InputError: As `from_open_clip` does, and if the checkpoint's keys or shapes do not fit.
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
        """Makes a classifier over a tiny CLIP that comes with clipfast.

        It has its own class names and calibrated thresholds. The bundled models show the mechanism; they
        are no evidence about real CLIP.

        Args:
            name: "drawn", of coloured shapes, or "photographs", of CIFAR-10.
            classnames: Names of the C classes, of words that the model knows; by default the model's own.
            preset: "published" or "recommended": whose settings it has, unless the options have a config.
            finetuned: Whether to take its adversarially fine-tuned twin, with the original for the gate.
            device: Where the model goes.
            options: Keyword arguments of the class.

        Raises:
            InputError: For another name or preset, for a twin that does not exist, for words that the
                model does not know, and all that the class refuses.
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
        """Returns a classifier of the same weights, class names and options with other settings.

        Its engine and its counts are its own. Both classifiers run on the same packed copies of the
        weights.

        Args:
            config: The other settings.
            on_trial: Whether the settings are measured or attacked, not relied on: there is then no
                warning.

        Raises:
            InputError: If weights changed since and are no longer float32 or finite.

        Warns:
            UncalibratedWarning: If config.tau_threshold was not calibrated for this model.
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
        """The device that the model is on."""
        return self.image_tower.mean.device

    @property
    def noise_policy(self) -> NoisePolicy:
        """How noise is drawn if a call gives none: "fresh" or "content"."""
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
        """What cosines are multiplied by: float32, a scalar."""
        self._follow()
        return self._state.head.logit_scale

    @property
    def calibrated(self) -> bool:
        """Whether config.tau_threshold was calibrated for the weights that the gate measures with now."""
        return self._follow().calibrated

    @property
    def source(self) -> tuple[str, str | None] | None:
        """The names of the model and of its weights, if a constructor loaded them and they are the same.

        None otherwise.
        """
        self._follow()
        return self._source

    @property
    def drift_weights(self) -> str:
        """The fingerprint of `measuring_tower`; calibrations are for it."""
        return fingerprint(self.measuring_tower.model.visual)

    @property
    def measuring_tower(self) -> ImageTower:
        """The image tower that the gate measures with: `drift_tower` if there is one, else `image_tower`."""
        return self.image_tower if self.drift_tower is None else self.drift_tower

    def train(self, mode: bool = True) -> DefendedClassifier:  # noqa: ARG002
        """Stays in eval mode, whatever mode a surrounding module is put into.

        Args:
            mode: Not read.

        Returns:
            The classifier itself.
        """
        return super().train(False)

    @_eager
    def forward(self, pixels: Tensor) -> Tensor:
        """Computes the defended logits, float32 [N, C].

        Args:
            pixels: [N, 3, H, W], uint8 or float in [0, 1]; N may be 0.

        Raises:
            InputError: For bad pixels, and for a drift that is not finite.
            GradientError: For pixels that require a gradient, unless gradients are switched off
                (`no_grad`).
            OutOfMemoryError: If not even one image fits in memory.
        """
        return self.predict(pixels).logits

    @_eager
    def predict(
        self,
        pixels: Tensor,
        *,
        noise: Tensor | None = None,
        seed: int | None = None,
        first_image: int = 0,
        with_delta: bool = False,
        with_undefended: bool = False,
    ) -> Prediction[Tensor]:
        """Classifies images.

        Args:
            pixels: [N, 3, H, W], uint8 or float in [0, 1]; N may be 0.
            noise: The caller's own noise, float [N, 3, H, W] within eps, in [0, 1] pixel units
                (published: drawn from U(-eps, eps)).
            seed: Makes the call reproducible, from 0 to 2^64 - 1. The noise of image i then depends on
                the seed and first_image + i alone, so that a long list may be cut into batches of any
                size.
            first_image: Index of the first image under the seed, from 0 to 2^32 - N.
            with_delta: Whether to give the counter-perturbation.
            with_undefended: Whether to give plain CLIP's logits of all images. If not, they are NaN for
                images for which they would cost a pass more.

        Returns:
            The answers for the N images.

        Raises:
            InputError: For bad pixels or noise; for a bad seed or first_image; if there are both noise
                and a seed; and if the model gives an image a drift or an embedding that is not finite, or
                an embedding of length 0.
            GradientError: For pixels that require a gradient, unless gradients are switched off
                (`no_grad`).
            OutOfMemoryError: If not even one image fits in memory.
        """
        if isinstance(pixels, Tensor) and pixels.requires_grad and torch.is_grad_enabled():
            raise GradientError(
                "a defended classifier has no honest gradient to its pixels; attack it through "
                "differentiable('bpda') or differentiable('unrolled'), or detach the pixels"
            )
        # The defence needs small differences, which an autocast forward pass would round away.
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
        self._stats.add(tally(prediction))
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("countered %d of %d images", int(prediction.countered.sum()), len(x))
        return prediction

    def undefended(self, pixels: Tensor) -> Tensor:
        """Computes plain CLIP's logits, differentiably, for attackers of the undefended model.

        Args:
            pixels: [N, 3, H, W], uint8 or float in [0, 1]; N may be 0.

        Returns:
            The logits, float32 [N, C].

        Raises:
            InputError: For bad pixels.
        """
        self._follow()
        x = as_unit(check_pixels(pixels, self.image_size, on_gpu=True).to(self.device))
        if len(x) == 0:
            return x.new_zeros(0, len(self.classnames))
        return self._head(self.image_tower(x), "naive")

    def differentiable(self, mode: Mode) -> DifferentiableDefence:
        """Returns the defence as a module with gradients, for attackers; see `DifferentiableDefence`.

        Args:
            mode: "bpda", "unrolled" or "undefended".

        Raises:
            InputError: If there is no such mode.
        """
        return DifferentiableDefence(
            mode,
            config=self.config,
            image_tower=self.image_tower,
            drift_tower=self.drift_tower,
            head=lambda embedding: self._head(embedding, "naive"),
            engine=lambda: self.engine,
        )

    def warmup(self, batch_sizes: Iterable[int] = (1,)) -> None:
        """Does now what the first call of each batch size would wait for, such as packing and compiling.

        Args:
            batch_sizes: Numbers of images in a batch, each at least 1.

        Raises:
            InputError: If a size is not an integer of at least 1.
        """
        sizes = [checked_integer("a batch size", size, 2**31, start=1) for size in batch_sizes]
        self.engine.warmup(sizes)
        width = self.class_weights.shape[0]
        for n in sizes:
            self._head(torch.ones(n, width, device=self.device))

    @property
    def engine(self) -> DefenceEngine:
        """What runs the defence on the weights as they are now; made when it is first needed."""
        return self._follow().engine.get(self._make_engine)

    def stats(self) -> Stats:
        """Returns the counts of images and the drift histogram since the start or `reset_stats`."""
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
        """What was made for the weights, made anew if they have changed or moved."""
        version, made = self._state.refresh(), self._made
        if made is not None and made.version == version:
            return made
        if self._state.changes:  # the weights are no longer those that were loaded
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
        """The result for no images, [0, 3, H, W]."""
        none, embedding = x.new_zeros(0), x.new_zeros(0, self._state.head.class_weights.shape[0])
        return Counterattacked(embedding, embedding, none, none.bool(), x)

    @property
    def _operators(self) -> Implementation:
        return "naive" if self._implementation == "reference" else self._implementation

    def _is_calibrated(self) -> bool:
        if (config := self.config).calibrated_for is not None:
            return config.is_calibrated(self.drift_weights)
        return config.gate == "none" or (self._source in PUBLISHED_FOR and config.gates_as_published())
