"""Templates of pages, filled with text that is HTML already."""

from __future__ import annotations

from importlib import resources
from string import Template

__all__ = ["filled", "styles"]


def styles(*names: str) -> str:
    """The style sheets of clipfast.pages that are named, one after the other."""
    folder = resources.files("clipfast.pages")
    return "".join(folder.joinpath(f"{name}.css").read_text(encoding="utf-8") for name in names)


def filled(package: str, **values: str) -> str:
    """page.html of a package with $style and the other values, which must be escaped, put in."""
    template = resources.files(package).joinpath("page.html").read_text(encoding="utf-8")
    return Template(template).substitute(style=styles("charts", "page"), **values)
