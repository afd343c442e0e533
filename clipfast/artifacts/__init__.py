"""Exported classifiers described and run, without torch where possible. The way in is `clipfast.runtime`."""
