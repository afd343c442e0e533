"""Describes and runs exported files, without torch where possible; users import `clipfast.runtime`."""
