"""What a model, or a file that names one, must not do: run code, or download what nobody asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
from huggingface_hub import constants

from ..errors import InputError

__all__ = ["check_no_remote_code", "offline"]

_one_at_a_time = threading.Lock()


def check_no_remote_code(model_name: str, cache_dir: str | Path | None = None) -> None:
    """Checks that a model's configuration does not make transformers run code that comes with the model.

    open_clip hands a configuration's `tokenizer_kwargs` to transformers as they are, `trust_remote_code`
    among them.

    Args:
        model_name: As open_clip takes it. A configuration on the hub is fetched.
        cache_dir: Where the hub's files are kept; None for the default place.

    Raises:
        InputError: If the configuration has `trust_remote_code` set.
    """
    kind, name = open_clip.factory.parse_model_name(model_name)
    if kind == "hf-hub":
        file = open_clip.pretrained.download_pretrained_from_hf(
            name, filename="open_clip_config.json", cache_dir=None if cache_dir is None else str(cache_dir)
        )
        config = open_clip.get_model_config(f"local-dir:{Path(file).parent}")
    else:
        config = open_clip.get_model_config(model_name)
    if _trusts(config):
        raise InputError(
            f"{model_name!r} asks for trust_remote_code; clipfast runs no code that comes with a model"
        )


def _trusts(config: Any) -> bool:
    if isinstance(config, dict):
        return bool(config.get("trust_remote_code")) or any(map(_trusts, config.values()))
    return isinstance(config, list) and any(map(_trusts, config))


@contextmanager
def offline() -> Iterator[None]:
    """Switches downloads off meanwhile, in the whole process: only what was stored before is there.

    open_clip and the hub's client raise errors of their own if something is missing.
    """
    with _one_at_a_time:
        before = constants.HF_HUB_OFFLINE, open_clip.pretrained.download_pretrained_from_url
        constants.HF_HUB_OFFLINE, open_clip.pretrained.download_pretrained_from_url = True, _stored
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE, open_clip.pretrained.download_pretrained_from_url = before


def _stored(url: str, cache_dir: str | None = None) -> str:
    """Where open_clip keeps what it downloaded from an address. Raises FileNotFoundError if not."""
    file = Path(cache_dir or "~/.cache/clip").expanduser() / Path(url).name
    if not file.is_file():
        raise FileNotFoundError(f"{url} was not downloaded before")
    return str(file)
