"""Standard streams at a pseudo-terminal, as a shell's user has them; what is not is a file."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

_CONTROL = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")


class Terminal:
    """A terminal, whose output is read until it is closed."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self._written = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO, once nobody has the other side open
            while block := os.read(self._ours, 1 << 16):
                self._written += block
        os.close(self._ours)

    def close(self) -> None:
        os.close(self.theirs)
        self._reader.join()

    @property
    def written(self) -> str:
        """All that was written to it, without colours and movements of the cursor."""
        return _CONTROL.sub("", self._written.decode()).replace("\r\n", "\n")

    @property
    def lines(self) -> list[str]:
        """The lines that stand there at the end and are not blank, as they were before they were folded."""
        rows, folded = {0: ""}, set[int]()
        row = column = 0
        for token in re.finditer(rf"{_CONTROL.pattern}|(.)", self._written.decode(), re.DOTALL):
            count, control, character = token.groups()
            if control == "A":
                row -= int(count or 1)
            elif control == "K":
                rows[row] = ""
            elif character == "\r":
                column = 0
            elif character == "\n":
                row += 1
            elif character is not None:
                if column == self._columns:
                    row, column = row + 1, 0
                    folded.add(row)
                line = rows.get(row, "").ljust(column)
                rows[row] = line[:column] + character + line[column + 1 :]
                column += 1
        lines: list[str] = []
        for i in range(max(rows) + 1):
            if i in folded:
                lines[-1] += rows[i]
            else:
                lines.append(rows.get(i, "").rstrip())
        return [line for line in lines if line]


@contextlib.contextmanager
def terminal(columns: int = 200) -> Iterator[Terminal]:
    made = Terminal(columns)
    try:
        yield made
    finally:
        made.close()


class Seen(NamedTuple):
    """Exit code; all that standard output and standard error got; the lines that the terminal shows."""

    code: int
    out: str
    err: str
    lines: list[str]


def run_at_terminal(
    arguments: Sequence[object], at: Sequence[str], folder: Path, *, columns: int = 200
) -> Seen:
    """Runs the command line in a process of its own. at: which of "stdout" and "stderr" are the terminal."""
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    environment |= {"TERM": "xterm-256color"}
    with terminal(columns) as shown, contextlib.ExitStack() as files:
        streams: dict[str, IO[str] | int] = {
            name: shown.theirs if name in at else files.enter_context((folder / name).open("w"))
            for name in ("stdout", "stderr")
        }
        command = [sys.executable, "-m", "clipfast", *map(str, arguments)]
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, **streams)
    out, err = (shown.written if name in at else (folder / name).read_text() for name in ("stdout", "stderr"))
    return Seen(done.returncode, out, err, shown.lines)
