"""What class names and templates may be: they are printed, logged and shown, and may come from a file."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from string import Formatter

from ..errors import InputError

__all__ = ["check_classnames", "check_template", "is_printable"]

# Characters that reorder the text around them. Joiners, which are of category Cf too, belong to words.
_TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_CONTROLS = frozenset({"Cc", "Cs", "Zl", "Zp"})


def check_classnames(names: Sequence[str]) -> None:
    """Checks class names.

    Raises:
        InputError: If there are none; if one is empty, or has characters that control or reorder what is
            printed; or if two look the same.
    """
    if not names:
        raise InputError("expected at least one class name, got none")
    seen: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"expected class names that are not empty, got {name!r:.200}")
        if not is_printable(name):
            raise InputError(f"expected class names without control characters, got {name!a:.200}")
        if (look := _seen(name)) in seen:
            alike = f"{seen[look]!a:.200} and {name!a:.200}"
            raise InputError(f"expected distinct class names, got {alike}, which look alike")
        seen[look] = name


def check_template(template: str) -> None:
    """Checks that a template has "{}" where the class name goes, and no other field, width or conversion.

    "{0}" is accepted too, once or several times.

    Raises:
        InputError: If it does not.
    """
    try:
        fields = [field for field in Formatter().parse(template) if field[1] is not None]
    except ValueError:
        fields = []
    names = [name for _, name, _, _ in fields]
    plain = all(not spec and not conversion for _, _, spec, conversion in fields)
    if not plain or not (names == [""] or (names and set(names) == {"0"})):
        raise InputError(f"expected a template with {{}} where the class name goes, got {template!r:.200}")


def is_printable(text: str) -> bool:
    """Returns whether a text moves neither a terminal's cursor nor the text around it."""
    return not any(unicodedata.category(c) in _CONTROLS or c in _TURNS for c in text)


def _seen(name: str) -> str:
    """What a reader sees of a name: composed characters, none without width, and single spaces."""
    composed = unicodedata.normalize("NFKC", name)
    return " ".join("".join(c for c in composed if unicodedata.category(c) != "Cf").split())
