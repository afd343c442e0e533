"""What an exported classifier takes and gives, by name: the same in every format. Needs no torch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import InputError

__all__ = ["OutputName", "PixelType", "Port", "Ports", "Profile", "described", "ports", "usual_outputs"]

Profile = Literal["serving", "lab"]
PixelType = Literal["float32", "uint8"]
OutputName = Literal["logits", "undefended_logits", "drift", "countered", "delta", "embedding"]  # in order

_NEEDED = ("logits", "drift", "countered")  # by whoever reads an answer


@dataclass(frozen=True)
class Port:
    """An input or output. shape: batch first; None is the batch size where it is dynamic."""

    name: str
    dtype: Literal["float32", "uint8", "int64", "bool"]
    shape: tuple[int | None, ...]


Ports = tuple[Port, ...]


def described(dtype: str, shape: tuple[int | None, ...]) -> str:
    """As float32 [N, 3, 224, 224]."""
    return f"{dtype} [{', '.join('N' if size is None else str(size) for size in shape)}]"


def usual_outputs(profile: Profile) -> tuple[OutputName, ...]:
    """What a file gives where nothing else is asked for."""
    usual: tuple[OutputName, ...] = ("logits", "undefended_logits", "drift", "countered")
    return (*usual, "delta") if profile == "lab" else usual


def ports(
    *,
    profile: Profile,
    static: bool,
    batch: int | None,
    pixels: PixelType,
    image_size: tuple[int, int],
    classes: int,
    outputs: Collection[str] | None = None,
    width: int | None = None,
) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """The inputs and the outputs of an artifact, in order.

    profile: "serving" takes `pixels` alone; "lab" takes `noise` and `tau_threshold` too, and can give
    `delta`. static: no operator draws noise, so that `noise` is an input in every profile. batch: None is
    any. outputs: by name; None is `usual_outputs`. width: of embeddings, D.

    Raises InputError for an unknown profile, pixel type or output, for outputs without `logits`, `drift` and
    `countered`, for `delta` of another profile than "lab", for `embedding` without a width, and for static
    with another batch than 1.
    """
    for name, value, known in (("profile", profile, Profile), ("pixels", pixels, PixelType)):
        if value not in get_args(known):
            raise InputError(f"{name} must be one of {get_args(known)}, got {value!r}")
    outputs = usual_outputs(profile) if outputs is None else outputs
    if unknown := [name for name in outputs if name not in get_args(OutputName)]:
        raise InputError(f"outputs must be of {', '.join(get_args(OutputName))}, got {unknown[0]!r}")
    if missing := [name for name in _NEEDED if name not in outputs]:
        raise InputError(f"expected {', '.join(_NEEDED)} among the outputs, got none of {', '.join(missing)}")
    if "delta" in outputs and profile != "lab":
        raise InputError(f"the output delta needs profile 'lab', got {profile!r}")
    if "embedding" in outputs and width is None:
        raise InputError("the output embedding needs its width, got none")
    if static and batch != 1:
        raise InputError(f"a static export is for batch 1, got {batch or 'any batch'}")
    picture = (batch, 3, *image_size)
    inputs = [Port("pixels", pixels, picture)]
    if static or profile == "lab":
        inputs.append(Port("noise", "float32", picture))
    if profile == "lab":
        inputs.append(Port("tau_threshold", "float32", (batch,)))
    possible = (
        Port("logits", "float32", (batch, classes)),
        Port("undefended_logits", "float32", (batch, classes)),
        Port("drift", "float32", (batch,)),
        Port("countered", "bool", (batch,)),
        Port("delta", "float32", picture),
        Port("embedding", "float32", (batch, width)),
    )
    return tuple(inputs), tuple(port for port in possible if port.name in outputs)
