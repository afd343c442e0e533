"""Faults that the tests are to notice."""
