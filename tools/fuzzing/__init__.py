"""Inputs that nobody would write, for everything that reads files of strangers."""
