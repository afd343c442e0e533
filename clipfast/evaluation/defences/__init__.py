"""The defences that an evaluation compares: their registry, each as a system, and baselines' own pixels."""

from .registry import DEFENCES, Defence, make_defences, usual_defences

__all__ = ["DEFENCES", "Defence", "make_defences", "usual_defences"]
