"""What commands print with: both streams, progress, warnings, and what was left out.

Standard output is a command's result and stays where its user sent it: nothing here writes to it, or has
what is written to it go elsewhere while progress is shown.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from ..errors import InputError, UncalibratedWarning

__all__ = ["ProgressBar", "printed_warnings", "spinner", "stderr", "stdout", "tell", "tell_skipped"]

# Names with colons are names, and no pictures.
stderr = Console(stderr=True, emoji=False)
stdout = Console(emoji=False)

SECONDS_A_LINE = 60.0  # of progress, where stderr is a file


def tell(label: str, message: str) -> None:
    """Prints a line on stderr. label: of rich's markup; message: as it is, and not wrapped."""
    stderr.print(f"{label} {escape(message)}", highlight=False, soft_wrap=True)


def tell_skipped(errors: Sequence[InputError]) -> None:
    """Says what could not be read."""
    for error in errors:
        tell("[red]skipped[/]", str(error))


@contextlib.contextmanager
def printed_warnings() -> Iterator[None]:
    """Prints what is warned of inside, each message once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UncalibratedWarning)
        yield
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        tell("[yellow]warning:[/]", message)


class ProgressBar(Progress):
    """One task's bar with the time left, on stderr, or lines where no terminal shows bars.

    done: the column that says how far it is.
    """

    def __init__(self, done: ProgressColumn, *, disable: bool = False) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), done, TimeRemainingColumn())
        super().__init__(*columns, console=stderr, transient=True, redirect_stdout=False, disable=disable)
        self._told = time.monotonic()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Some of a task is done."""
        super().advance(task_id, advance)
        if self.disable or self.console.is_terminal or time.monotonic() - self._told < SECONDS_A_LINE:
            return
        self._told = time.monotonic()
        (task,) = self.tasks
        left = timedelta(seconds=round(task.time_remaining or 0))
        self.console.print(
            f"{escape(task.description)}: {task.percentage:.0f} %, {left} left", highlight=False
        )

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """The bar is away while standard output is printed to where both show on terminals."""
        shown = self.live.is_started and stderr.is_interactive and stdout.is_terminal
        if shown:
            self.stop()
        yield
        if shown:
            self.start()


@contextlib.contextmanager
def spinner(message: str) -> Iterator[Callable[[str], None]]:
    """A message on stderr while something is done, where a terminal shows it; gives what changes it."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False))
    with Progress(
        *columns, console=stderr, transient=True, redirect_stdout=False, disable=not stderr.is_terminal
    ) as progress:
        task = progress.add_task(message, total=None)
        yield lambda message: progress.update(task, description=message)
