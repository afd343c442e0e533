"""Weights from files: safetensors, or torch files read with `weights_only=True`; never pickled code."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import open_clip
import open_clip.transformer
import safetensors.torch
import torch
from torch import Tensor, nn

from ..errors import InputError

__all__ = ["load_clip", "load_image_tower", "read_checkpoint"]

_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_NESTED = ("vision_encoder_state_dict", "state_dict")
_MOST_TIMES, _SPARE = 16, 2**26


def read_checkpoint(path: str | os.PathLike[str], module: nn.Module) -> dict[str, Any]:
    """Reads the dict that a checkpoint file holds.

    What is read takes no more memory than the file has bytes.

    Args:
        path: A .safetensors, .pt, .pth or .bin file.
        module: What the weights are to be loaded into. A file of more than 16 times its size in float32
            and 64 MiB is refused; this leaves room for a text tower and an optimiser's state.

    Raises:
        InputError: If the file is missing, broken, too large or of another suffix; if it holds more than
            plain tensors and containers (which is refused, not run); if its parts are compressed; for
            dictionaries with keys that are not strings; and for tensors that are sparse, complex,
            quantised, nested or without values.
    """
    path = Path(path)
    if path.suffix not in _SUFFIXES:
        raise InputError(f"expected a checkpoint ending in one of {_SUFFIXES}, got {path.name!r}")
    if not path.is_file():
        raise InputError(f"no such checkpoint: {path}")
    needed = 4 * sum(tensor.numel() for tensor in module.state_dict().values())
    if (size := path.stat().st_size) > _MOST_TIMES * needed + _SPARE:
        raise InputError(f"{path}: expected weights of some {needed:,} bytes, got a file of {size:,}")
    try:
        _check_stored(path)
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused, because it holds more than tensors and could run code when loaded "
            f"(or is damaged). Convert it to safetensors where you trust it. ({_shortened(str(error))})"
        ) from error
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file makes torch stumble over
        raise InputError(f"{path}: not a readable checkpoint: {error}") from error
    if not isinstance(checkpoint, dict):
        raise InputError(f"{path}: expected a dict of tensors, got {type(checkpoint).__name__}")
    _check_plain(checkpoint, path)
    return checkpoint


def _check_stored(path: Path) -> None:
    """Raises InputError for a torch file with compressed parts: small ones may become anything.

    torch itself writes none.
    """
    if not zipfile.is_zipfile(path):
        return  # safetensors, or torch's form before 1.6
    with zipfile.ZipFile(path) as archive:
        packed = [info.filename for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise InputError(f"{path}: expected a file that torch wrote, got {packed[0]!r:.200} in it compressed")


def _check_plain(values: dict[Any, Any], path: Path) -> None:
    for name, value in values.items():
        if not isinstance(name, str):
            raise InputError(f"{path}: expected names of tensors, got {name!r:.200}")
        if isinstance(value, Tensor) and not _is_plain(value):
            raise InputError(
                f"{path}: expected plain tensors, got {name!r:.200} as {value.dtype}, {value.layout}"
            )
        if isinstance(value, dict) and name in _NESTED:
            _check_plain(value, path)


def _is_plain(tensor: Tensor) -> bool:
    special = tensor.is_complex() or tensor.is_quantized or tensor.is_meta or tensor.is_nested
    return tensor.layout == torch.strided and not special


def load_clip(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Loads a whole CLIP into an open_clip model, in place.

    Positional embeddings are not resized. Only an `open_clip_config.json` beside the file tells QuickGELU
    from GELU; without that file the activation is not checked, as the weights do not show it.

    Args:
        model: The open_clip model.
        path: A file as of `read_checkpoint`, of a state dict or of a dict with a `state_dict`.

    Raises:
        InputError: As `read_checkpoint` does; if keys or shapes differ; and if the
            `open_clip_config.json` beside the file is broken or disagrees about QuickGELU.
    """
    path = Path(path)
    _check_activation(model, path)
    state = read_checkpoint(path, model)
    state = state["state_dict"] if isinstance(state.get("state_dict"), dict) else state
    if not state:
        raise InputError(f"{path}: expected weights, got an empty state dict")
    _check_positions(model, _without_prefixes(state, ("module.",)), path)
    try:
        open_clip.load_checkpoint(model, str(path), strict=True, weights_only=True)  # pyright: ignore[reportArgumentType]
    except (RuntimeError, AttributeError, KeyError) as error:
        raise InputError(f"{path} does not fit the model: {_shortened(str(error))}") from error


def _check_positions(model: nn.Module, state: dict[str, Any], path: Path) -> None:
    """Refuses positional embeddings of another shape: open_clip would resize them silently.

    A model at another resolution is another model.
    """
    for name, wanted in model.state_dict().items():
        got = state.get(name)
        if name.endswith("positional_embedding") and isinstance(got, Tensor) and got.shape != wanted.shape:
            raise InputError(
                f"{path} does not fit the model: {name}: expected {tuple(wanted.shape)}, "
                f"got {tuple(got.shape)}"
            )


def load_image_tower(visual: nn.Module, path: str | os.PathLike[str]) -> None:
    """Loads an adversarially fine-tuned image tower, in place.

    Args:
        visual: The image tower of an open_clip model. It is unchanged if an error is raised.
        path: A file as of `read_checkpoint`: a dict with `vision_encoder_state_dict`, as TeCoA and
            PMG-AFT publish; a state dict of the tower (FARE); or one of a whole CLIP, of which the image
            tower is taken.

    Raises:
        InputError: As `read_checkpoint` does, and if keys or shapes differ.
    """
    state: dict[str, Any] = read_checkpoint(path, visual)
    for nested in _NESTED:
        if isinstance(state.get(nested), dict):
            state = state[nested]
            break
    wanted = visual.state_dict()
    state = _without_prefixes(state, ("module.", "model."))
    if any(name.startswith("visual.") for name in state):  # a whole CLIP: its image tower
        state = {k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")}
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    missing, foreign = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    shapes = [
        f"{name} (expected {tuple(wanted[name].shape)}, got {tuple(tensors[name].shape)})"
        for name in sorted(set(wanted) & set(tensors))
        if wanted[name].shape != tensors[name].shape
    ]
    if missing or foreign or shapes:
        raise InputError(
            f"{path} does not fit the image tower: "
            + "; ".join(
                f"{len(names)} {label}: {_some(names)}"
                for label, names in (("missing", missing), ("foreign", foreign), ("of another shape", shapes))
                if names
            )
        )
    visual.load_state_dict(tensors)


def _without_prefixes(state: dict[str, Any], prefixes: tuple[str, ...]) -> dict[str, Any]:
    """Strips the prefixes of wrappers that every key has."""
    while prefix := next((p for p in prefixes if state and all(k.startswith(p) for k in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _check_activation(model: nn.Module, path: Path) -> None:
    config = path.parent / "open_clip_config.json"
    if not config.is_file():
        return
    try:
        expected = bool(json.loads(config.read_text())["model_cfg"].get("quick_gelu", False))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{config}: expected open_clip's JSON with a model_cfg: {error!r}") from error
    built = any(isinstance(module, open_clip.transformer.QuickGELU) for module in model.modules())
    if expected != built:
        raise InputError(
            f"{path} was trained with {'QuickGELU' if expected else 'GELU'} (says {config.name} beside it), "
            f"but the model was built with {'QuickGELU' if built else 'GELU'}; "
            f"{'add' if expected else 'drop'} the ending '-quickgelu' in the model's name"
        )


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _shortened(message: str) -> str:
    message = " ".join(message.split())
    return message if len(message) <= 600 else message[:600] + " ..."
