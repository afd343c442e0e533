"""Measures what a gate reads of pictures, and chooses its threshold."""
