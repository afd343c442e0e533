"""What an exported classifier takes and gives, by name: the same in every format. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import InputError

__all__ = ["PixelType", "Port", "Ports", "Profile", "ports"]

Profile = Literal["serving", "lab"]
PixelType = Literal["float32", "uint8"]


@dataclass(frozen=True)
class Port:
    """An input or output. shape: batch first; None is the batch size where it is dynamic."""

    name: str
    dtype: Literal["float32", "uint8", "int64", "bool"]
    shape: tuple[int | None, ...]


Ports = tuple[Port, ...]


def ports(
    *,
    profile: Profile,
    static: bool,
    batch: int | None,
    pixels: PixelType,
    image_size: tuple[int, int],
    classes: int,
) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """The inputs and the outputs of an artifact, in order.

    profile: "serving" takes `pixels` alone; "lab" takes `noise` and `tau_threshold` too, and gives `delta`.
    static: no operator draws noise, so that `noise` is an input in every profile. batch: None is any.
    Raises InputError for an unknown profile or pixel type, and for static with another batch than 1.
    """
    for name, value, known in (("profile", profile, Profile), ("pixels", pixels, PixelType)):
        if value not in get_args(known):
            raise InputError(f"{name} must be one of {get_args(known)}, got {value!r}")
    if static and batch != 1:
        raise InputError(f"a static export is for batch 1, got {batch or 'any batch'}")
    picture = (batch, 3, *image_size)
    inputs = [Port("pixels", pixels, picture)]
    if static or profile == "lab":
        inputs.append(Port("noise", "float32", picture))
    outputs = [
        Port("logits", "float32", (batch, classes)),
        Port("undefended_logits", "float32", (batch, classes)),
        Port("drift", "float32", (batch,)),
        Port("countered", "bool", (batch,)),
    ]
    if profile == "lab":
        inputs.append(Port("tau_threshold", "float32", (batch,)))
        outputs.append(Port("delta", "float32", picture))
    return tuple(inputs), tuple(outputs)
