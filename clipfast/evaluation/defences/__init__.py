"""The defences that an evaluation compares: a registry, their systems, and what moves their pixels."""

from .registry import DEFENCES, Defence, make_defences, usual_defences

__all__ = ["DEFENCES", "Defence", "make_defences", "usual_defences"]
