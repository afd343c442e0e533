"""open_clip models by name; mistakes that would silently ruin the accuracy are errors."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import nn

from ..errors import InputError
from .bundled import BUNDLED, bundled_folder, load_bundled
from .checkpoint import load_clip
from .untrusted import check_no_remote_code, offline

__all__ = ["brings_weights", "check_weights_named", "load_open_clip", "source_of"]


def brings_weights(model_name: str) -> bool:
    """Returns whether a model's name stands for weights too, and not for an architecture alone."""
    return model_name in BUNDLED or model_name.startswith(("hf-hub:", "local-dir:"))


def check_weights_named(model_name: str, pretrained: str | Path | None) -> None:
    """Checks that weights are named, so that they are not random.

    Args:
        model_name: As for `load_open_clip`.
        pretrained: As for `load_open_clip`.

    Raises:
        InputError: If the name stands for an architecture alone and pretrained is None.
    """
    if pretrained is None and not brings_weights(model_name):
        raise InputError(f"--model {model_name} needs --pretrained: a tag of open_clip or a file of weights")


def source_of(model_name: str, pretrained: str | Path | None) -> tuple[str, str | None]:
    """Returns a model's name and its weights' name, as open_clip writes them.

    Args:
        model_name: As for `load_open_clip`.
        pretrained: As for `load_open_clip`. Of a file of weights, the result has the file's name.
    """
    name = model_name if brings_weights(model_name) else model_name.replace("/", "-")
    return name, None if pretrained is None else Path(pretrained).name


@torch.inference_mode(False)  # no gradient could go through weights made in inference mode
def load_open_clip(
    model_name: str,
    pretrained: str | Path | None,
    *,
    device: str | torch.device = "cpu",
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> tuple[nn.Module, Any]:
    """Loads an open_clip model in eval mode, and its tokenizer.

    Args:
        model_name: A name of open_clip's registry, or with pretrained=None "hf-hub:org/repo",
            "local-dir:path" or a bundled model's name.
        pretrained: A tag of the registry, a local .safetensors, .pt, .pth or .bin file, or None: the
            weights that the name stands for, or else random ones.
        device: Where the model goes.
        cache_dir: Where downloads are kept; None for the default places.
        local_files_only: Whether to download nothing.

    Returns:
        The model and its tokenizer.

    Raises:
        InputError: If a name or tag is unknown; if weights do not fit or cannot be fetched; for QuickGELU
            weights in a GELU model or the reverse; and for a model that brings code to run
            (`trust_remote_code`).
    """
    if brings_weights(model_name) and pretrained is not None:
        raise InputError(
            f"{model_name!r} brings its own weights: expected pretrained=None, got {pretrained!r}"
        )
    if model_name in BUNDLED:
        bundled = load_bundled(bundled_folder(model_name), device)
        return bundled.model, bundled.tokenizer
    cache = str(cache_dir) if cache_dir else None
    if brings_weights(model_name):
        weights: str | None = None
        needs_weights = True
    else:
        name = model_name.replace("/", "-")
        if name not in open_clip.list_models():
            raise InputError(f"unknown model {model_name!r}{_near(name, open_clip.list_models())}")
        weights = None if pretrained is None or _is_file(pretrained) else str(pretrained)
        if weights is not None:
            _check_tag(name, weights)
        needs_weights = weights is not None
    try:
        with offline() if local_files_only else nullcontext(), _in_silence(pretrained is not None):
            check_no_remote_code(model_name, cache)
            model = open_clip.create_model(
                model_name, weights, device=device, cache_dir=cache, require_pretrained=needs_weights
            )
            tokenizer = open_clip.get_tokenizer(model_name, cache_dir=cache)
    except InputError:
        raise
    except Exception as error:  # open_clip and the hub raise errors of many kinds
        here = " from this machine alone" if local_files_only else ""
        raise InputError(
            f"could not load {model_name!r} with weights {pretrained!r}{here}: {error}"
        ) from error
    if pretrained is not None and weights is None:
        load_clip(model, pretrained)
    return model.eval(), tokenizer


@contextmanager
def _in_silence(silent: bool) -> Iterator[None]:
    """Drops the warning, on logging's root, that a model has no weights: they are loaded afterwards."""

    def wanted(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("No pretrained weights loaded")

    root = logging.getLogger()
    if silent:
        root.addFilter(wanted)
    try:
        yield
    finally:
        root.removeFilter(wanted)


def _is_file(pretrained: str | Path) -> bool:
    return isinstance(pretrained, Path) or Path(pretrained).suffix != "" or Path(pretrained).is_file()


def _check_tag(name: str, tag: str) -> None:
    tags = open_clip.list_pretrained_tags_by_model(name)
    settings = open_clip.get_pretrained_cfg(name, tag)
    if not settings:
        raise InputError(
            f"{name!r} has no weights {tag!r}{_near(tag, tags)}; it has: {', '.join(tags) or 'none'}"
        )
    trained = bool(settings.get("quick_gelu", False))
    built = bool((open_clip.get_model_config(name) or {}).get("quick_gelu", False))
    if trained != built:
        other = f"{name}-quickgelu" if trained else name.removesuffix("-quickgelu")
        raise InputError(
            f"weights {tag!r} were trained with {'QuickGELU' if trained else 'GELU'}, but {name!r} is "
            f"built with {'QuickGELU' if built else 'GELU'}; that silently costs accuracy: use {other!r}"
        )


def _near(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=3)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
