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

    All forms take what the schema says, by position.

    Attributes:
        name: Its name in that namespace.
        naive: Its form in plain PyTorch, which is differentiable, and which all others must agree with.
            Exporters trace it. None if there is none.
        kernels: Its other forms. Triton's is in `clipfast.ops.triton_kernels`, under the operator's name.
            C++'s is in csrc/, and registers itself.
    """

    name: str
    naive: Callable[..., Any] | None
    kernels: tuple[Kernel, ...]

    def register(self, form: Callable[..., Any], key: str) -> None:
        """Makes torch's dispatcher run a form for a key.

        Args:
            form: A function that takes what the schema says.
            key: A dispatch key of torch, such as "CPU" or "CUDA".
        """
        _LIBRARY.impl(self.name, form, key)


def declare(
    schema: str,
    *,
    fake: Callable[..., Any],
    naive: Callable[..., Any] | None = None,
    kernels: tuple[Kernel, ...] = (),
) -> Operator:
    """Declares an operator to torch, and adds it to OPERATORS.

    Args:
        schema: "name(arguments) -> results".
        fake: Gives empty results of the right shapes and dtypes.
        naive: The form in plain PyTorch. It also runs on devices that have no other form.
        kernels: The other forms that there are.
    """
    operator = Operator(name=schema.partition("(")[0], naive=naive, kernels=kernels)
    _LIBRARY.define(schema)
    torch.library.register_fake(f"clipfast::{operator.name}", fake, lib=_LIBRARY)
    if naive is not None:
        # torch falls back to it, such as in an exported program on a machine without the fast form.
        operator.register(naive, "CompositeExplicitAutograd")
    OPERATORS[operator.name] = operator
    return operator
