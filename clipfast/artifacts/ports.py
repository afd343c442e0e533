"""The named inputs and outputs of exported classifiers, the same in every format. Needs no torch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import InputError

__all__ = ["OutputName", "PixelType", "Port", "Ports", "Profile", "described", "ports", "usual_outputs"]

Profile = Literal["serving", "lab"]
PixelType = Literal["float32", "uint8"]
OutputName = Literal["logits", "undefended_logits", "drift", "countered", "delta", "embedding"]  # in order

_NEEDED = ("logits", "drift", "countered")  # no answer can be read without these


@dataclass(frozen=True)
class Port:
    """An input or output.

    Attributes:
        name: Its name.
        dtype: The dtype of its elements.
        shape: Its shape, batch first. None is the batch size if that is dynamic.
    """

    name: str
    dtype: Literal["float32", "uint8", "int64", "bool"]
    shape: tuple[int | None, ...]


Ports = tuple[Port, ...]


def described(dtype: str, shape: tuple[int | None, ...]) -> str:
    """Returns a dtype and a shape in words, such as `float32 [N, 3, 224, 224]`.

    Args:
        dtype: The name of the dtype.
        shape: The shape; None is written as N.
    """
    return f"{dtype} [{', '.join('N' if size is None else str(size) for size in shape)}]"


def usual_outputs(profile: Profile) -> tuple[OutputName, ...]:
    """Returns the outputs of a profile if no others are asked for.

    These are logits, undefended_logits, drift and countered, and for the profile "lab" also delta.
    """
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
    """Returns the inputs and the outputs of an exported classifier, in order.

    Args:
        profile: "serving" takes `pixels` alone. "lab" also takes `noise` and `tau_threshold`, and can
            give `delta`.
        static: Whether no operator draws noise, so that `noise` is an input in every profile.
        batch: The batch size, or None for any.
        pixels: The dtype of the input `pixels`.
        image_size: (height, width) of the pixels.
        classes: The number of classes, C.
        outputs: The names of the outputs; None stands for `usual_outputs`.
        width: The number of elements D of an embedding. Needed for the output `embedding`.

    Returns:
        The inputs and the outputs. Possible inputs are `pixels` [N, 3, H, W] as float32 or uint8, `noise`
        float32 [N, 3, H, W], and `tau_threshold` float32 [N]. Possible outputs are `logits` and
        `undefended_logits` float32 [N, C], `drift` float32 [N], `countered` bool [N], `delta` float32
        [N, 3, H, W], and `embedding` float32 [N, D].

    Raises:
        InputError: If the profile, pixel type or an output is unknown; `logits`, `drift` or `countered`
            is missing from the outputs; `delta` is asked for in a profile other than "lab"; `embedding`
            is asked for without a width; or `static` has a batch other than 1.
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
