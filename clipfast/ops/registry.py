"""The operators as torch knows them: each is declared once, in the module of its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

__all__ = ["OPERATORS", "Kernel", "Operator", "declare"]

Kernel = Literal["triton", "cpp"]

_LIBRARY = torch.library.Library("clipfast", "FRAGMENT")

OPERATORS: dict[str, Operator] = {}


@dataclass(frozen=True, kw_only=True)
class Operator:
    """An operator of torch's namespace `clipfast`.

    naive: its form in plain PyTorch, which every other is held to and exporters trace; differentiable.
    kernels: its other forms. Triton's is in `triton_kernels`, under the operator's name; C++'s is in csrc/,
    and registers itself. All take what the schema says, by position.
    """

    name: str
    naive: Callable[..., Any] | None
    kernels: tuple[Kernel, ...]

    def register(self, form: Callable[..., Any], key: str) -> None:
        """Makes a form what torch runs where its dispatcher comes to `key`."""
        _LIBRARY.impl(self.name, form, key)


def declare(
    schema: str,
    *,
    fake: Callable[..., Any],
    naive: Callable[..., Any] | None = None,
    kernels: tuple[Kernel, ...] = (),
) -> Operator:
    """Declares an operator to torch, and adds it to OPERATORS.

    schema: "name(arguments) -> results". fake: empty results of the right shapes and dtypes.
    """
    operator = Operator(name=schema.partition("(")[0], naive=naive, kernels=kernels)
    _LIBRARY.define(schema)
    torch.library.register_fake(f"clipfast::{operator.name}", fake, lib=_LIBRARY)
    if naive is not None:
        # What torch falls back to, as in an exported program on a machine without the fast form.
        operator.register(naive, "CompositeExplicitAutograd")
    OPERATORS[operator.name] = operator
    return operator
