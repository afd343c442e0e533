"""Compares exported files with the reference."""
