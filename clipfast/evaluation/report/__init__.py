"""What an evaluation found, for readers: tables, verdicts, JSON, CSV and a page."""

from __future__ import annotations

from .data_files import write_csv, write_json
from .figures import worst_case
from .page import write_page
from .summary import summaries, write_summary
from .tables import tables
from .words import caption, quotation, verdict, verdicts

__all__ = [
    "caption",
    "quotation",
    "summaries",
    "tables",
    "verdict",
    "verdicts",
    "worst_case",
    "write_csv",
    "write_json",
    "write_page",
    "write_summary",
]
