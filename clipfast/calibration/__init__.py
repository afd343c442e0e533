"""Measuring what a gate reads of pictures, and choosing its threshold."""
