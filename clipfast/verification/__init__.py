"""An exported file against the reference."""
