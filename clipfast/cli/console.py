"""What commands print with: both streams, progress, warnings, and what was left out.

Standard output is a command's result. Nothing here writes to it, and showing progress does not redirect
it.
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

# No emoji: rich would replace words between colons in names by pictures.
stderr = Console(stderr=True, emoji=False)
stdout = Console(emoji=False)

SECONDS_A_LINE = 60.0  # between two lines of progress, if stderr is not a terminal


def tell(label: str, message: str) -> None:
    """Prints a line on stderr.

    Args:
        label: The beginning of the line, in rich's markup.
        message: The rest of the line, printed as it is and not wrapped.
    """
    stderr.print(f"{label} {escape(message)}", highlight=False, soft_wrap=True)


def tell_skipped(errors: Sequence[InputError]) -> None:
    """Prints the errors of files that were skipped, a line each."""
    for error in errors:
        tell("[red]skipped[/]", str(error))


@contextlib.contextmanager
def printed_warnings() -> Iterator[None]:
    """Prints the warnings that are given inside the context when it ends, each message once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UncalibratedWarning)
        yield
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        tell("[yellow]warning:[/]", message)


class ProgressBar(Progress):
    """One task's bar with the time left, on stderr.

    If stderr is not a terminal, it prints a line a minute instead.

    Args:
        done: The column that shows how far the task is.
        disable: Whether to show nothing.
    """

    def __init__(self, done: ProgressColumn, *, disable: bool = False) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), done, TimeRemainingColumn())
        super().__init__(*columns, console=stderr, transient=True, redirect_stdout=False, disable=disable)
        self._told = time.monotonic()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Advances a task.

        Args:
            task_id: The task.
            advance: The number of steps that are done since the last call.
        """
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
        """Hides the bar inside the context if the bar and standard output show on a terminal."""
        shown = self.live.is_started and stderr.is_interactive and stdout.is_terminal
        if shown:
            self.stop()
        yield
        if shown:
            self.start()


@contextlib.contextmanager
def spinner(message: str) -> Iterator[Callable[[str], None]]:
    """Shows a message on stderr while something is done, if stderr is a terminal.

    Args:
        message: The first message.

    Yields:
        A function that replaces the message.
    """
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False))
    with Progress(
        *columns, console=stderr, transient=True, redirect_stdout=False, disable=not stderr.is_terminal
    ) as progress:
        task = progress.add_task(message, total=None)
        yield lambda message: progress.update(task, description=message)
