"""What clipfast's pages share: one style, one way to draw, and everything inside one file."""

from __future__ import annotations

from .charts import Axis, alone, histogram, lines, scatter
from .filling import filled

__all__ = ["Axis", "alone", "filled", "histogram", "lines", "scatter"]
