"""The result of a comparison of an exported file with the reference."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["CheckRow", "Verification", "at_least", "at_most", "share_at_most"]


@dataclass(frozen=True)
class CheckRow:
    """One check of n answers: the worst value and its limit.

    Attributes:
        check: What is checked, in words.
        worst: The worst value.
        limit: The limit of the worst value.
        n: The number of answers.
        least: Whether the limit is the least value that is allowed, not the largest.
    """

    check: str
    worst: float
    limit: float
    n: int
    least: bool = False

    @property
    def ok(self) -> bool:
        """Whether the worst value is within the limit; NaN never is."""
        return self.worst >= self.limit if self.least else self.worst <= self.limit

    @property
    def allowed(self) -> str:
        """The limit in words."""
        return f"at {'least' if self.least else 'most'} {self.limit:.3g}"


def at_most(check: str, values: Tensor, limit: float) -> list[CheckRow]:
    """Returns a check of the largest value, in a list that is empty if there are no values.

    Args:
        check: What is checked, in words.
        values: [N].
        limit: The largest value that is allowed.
    """
    return [CheckRow(check, values.max().item(), limit, len(values))] if len(values) else []


def at_least(check: str, values: Tensor, limit: float) -> list[CheckRow]:
    """Returns a check of the smallest value, in a list that is empty if there are no values.

    Args:
        check: What is checked, in words.
        values: [N].
        limit: The smallest value that is allowed.
    """
    return [CheckRow(check, values.min().item(), limit, len(values), least=True)] if len(values) else []


def share_at_most(check: str, flags: Tensor, limit: float) -> list[CheckRow]:
    """Returns a check of the share of flags that are set, in a list that is empty if there are no flags.

    Args:
        check: What is checked, in words.
        flags: bool [N].
        limit: The largest share that is allowed, in [0, 1].
    """
    return [CheckRow(check, flags.double().mean().item(), limit, len(flags))] if len(flags) else []


@dataclass(frozen=True)
class Verification:
    """How an exported file's answers compare with the reference's.

    Attributes:
        rows: The checks.
    """

    rows: tuple[CheckRow, ...]

    @property
    def agrees(self) -> bool:
        """Whether every check is within its limit."""
        return all(row.ok for row in self.rows)

    @property
    def failures(self) -> str:
        """The checks that are not within their limits, on one line."""
        failed = [row for row in self.rows if not row.ok]
        return "; ".join(f"{row.check} {row.worst:.3g}, allowed {row.allowed}" for row in failed)

    def table(self, title: str) -> Table:
        """Returns the checks as a table for a terminal, under a title."""
        from rich.table import Table

        table = Table("check", "worst", "allowed", "answers", "", title=title)
        for row in self.rows:
            verdict = "[green]ok[/]" if row.ok else "[bold red]no[/]"
            table.add_row(row.check, f"{row.worst:.3g}", row.allowed, str(row.n), verdict)
        return table

    def to_dict(self) -> dict[str, Any]:
        """Returns the checks for JSON, under the keys "agrees" and "rows"."""
        rows = [{**dataclasses.asdict(row), "ok": row.ok} for row in self.rows]
        return {"agrees": self.agrees, "rows": rows}
