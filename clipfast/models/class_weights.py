"""Class names x templates -> class weights, by open_clip's zero-shot convention."""

from __future__ import annotations

import logging
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from ..errors import InputError
from ..inputs.names import check_classnames, check_template
from ..torch_private import version_of

__all__ = ["Template", "Tokenizer", "class_weights", "null_embedding"]

Template = str | Callable[[str], str]  # a text with "{}" for the class name, or class name -> text
Tokenizer = Callable[[Any], Tensor]  # texts -> token ids, int64 [N, L]

_MOST_KEPT = 8

_log = logging.getLogger(__name__)
_cache: weakref.WeakKeyDictionary[nn.Module, dict[Any, Tensor]] = weakref.WeakKeyDictionary()


def class_weights(
    model: nn.Module, tokenizer: Tokenizer, classnames: Sequence[str], templates: Sequence[Template]
) -> Tensor:
    """Computes the zero-shot classifier of an open_clip model.

    Each class is the normalised mean over its templates of normalised text embeddings (open_clip's
    convention). The last few results are kept as long as the model lives and its weights do not change.
    Warns if two classes have the same tokens, so that the model cannot tell them apart.

    Args:
        model: The open_clip model.
        tokenizer: Takes texts to token ids, int64 [N, L].
        classnames: Names of the C classes.
        templates: Strings with "{}" where the class name goes, or functions of the class name; not both
            kinds.

    Returns:
        The class weights, float32 [D, C], columns of unit length. Do not write into them, as they are
            kept.

    Raises:
        InputError: For class names and templates that `clipfast.inputs.names` refuses, and if there are
            no templates, or templates of two kinds or of neither.
    """
    classnames, templates = tuple(classnames), tuple(templates)
    check_classnames(classnames)
    _check_templates(templates)
    return _made(model, tokenizer, classnames, templates)


def null_embedding(model: nn.Module, tokenizer: Tokenizer, templates: Sequence[Template]) -> Tensor:
    """Computes the embedding of the null prompt, which names no class.

    It is made of the templates with an empty name, as a class's column is with its own, and is kept
    alike.

    Args:
        model: The open_clip model.
        tokenizer: Takes texts to token ids, int64 [N, L].
        templates: As for `class_weights`.

    Returns:
        The embedding, float32 [D], of unit length.

    Raises:
        InputError: For templates that `class_weights` refuses.
    """
    templates = tuple(templates)
    _check_templates(templates)
    return _made(model, tokenizer, ("",), templates)[:, 0]


def _made(
    model: nn.Module, tokenizer: Tokenizer, classnames: tuple[str, ...], templates: tuple[Template, ...]
) -> Tensor:
    """The weights of names and templates that were checked, made now unless they are kept."""
    device = next(model.parameters()).device
    # A weight that is loaded or stepped in place raises its version (one changed through .data does not).
    version = sum(version_of(parameter) for parameter in model.parameters())
    key = (tokenizer, classnames, templates, device, version)
    kept = _cache.setdefault(model, {})
    if key not in kept:
        _log.info("building class weights: %d classes x %d templates", len(classnames), len(templates))
        seen: list[Tensor] = []

        def read(texts: Any) -> Tensor:
            seen.append(tokenizer(texts))
            return seen[-1]

        training = model.training
        model.eval()
        try:
            with torch.inference_mode(False):  # what is kept may be asked for with a gradient later
                weights = open_clip.build_zero_shot_classifier(
                    model, read, classnames, templates, num_classes_per_batch=64, device=device
                ).float()
        finally:
            model.train(training)
        if len(kept) >= _MOST_KEPT:
            kept.pop(next(iter(kept)))
        kept[key] = weights
        _tell_alike(classnames, torch.cat(seen).reshape(len(classnames), len(templates), -1))
    return kept[key]


def _tell_alike(classnames: tuple[str, ...], tokens: Tensor) -> None:
    """Warns of names that look the same to the model, which reads only so many tokens of a prompt.

    tokens: of each class's prompts, [C, T, L].
    """
    seen: dict[bytes, str] = {}
    for name, prompts in zip(classnames, tokens, strict=True):
        first = seen.setdefault(prompts.cpu().numpy().tobytes(), name)
        if first is not name:
            warnings.warn(
                f"the model reads {first!r:.60} and {name!r:.60} alike: {tokens.shape[2]} tokens of a prompt",
                stacklevel=4,
            )
            return


def _check_templates(templates: tuple[Template, ...]) -> None:
    if not templates:
        raise InputError("expected at least one template, got none")
    for template in templates:
        if isinstance(template, str):
            check_template(template)
        elif not callable(template):
            raise InputError(f"expected templates that are strings or callables, got {template!r}")
    if len({isinstance(template, str) for template in templates}) > 1:
        raise InputError("expected templates of one kind, got strings and callables mixed")
