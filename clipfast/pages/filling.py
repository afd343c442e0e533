"""Templates of pages, filled with text that is HTML already."""

from __future__ import annotations

from importlib import resources
from string import Template

__all__ = ["filled", "styles"]


def styles(*names: str) -> str:
    """Returns style sheets of `clipfast.pages`, one after the other, by their names without ".css"."""
    folder = resources.files("clipfast.pages")
    return "".join(folder.joinpath(f"{name}.css").read_text(encoding="utf-8") for name in names)


def filled(package: str, **values: str) -> str:
    """Fills in the page.html of a package.

    Args:
        package: The package with the template, by its dotted name.
        values: HTML by the template's names; plain text must be escaped. `$style` is filled in besides.

    Raises:
        KeyError: If the template has a name without a value.
    """
    template = resources.files(package).joinpath("page.html").read_text(encoding="utf-8")
    return Template(template).substitute(style=styles("charts", "page"), **values)
