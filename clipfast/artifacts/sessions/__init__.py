"""Exported files in the runtimes that run them: arrays in by name, arrays out by name."""
