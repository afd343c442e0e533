"""The commands of this folder as a user starts them, and what they start. For tests and figures, on Linux."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["listeners", "session", "started", "wait_for"]

_HERE = Path(__file__).parent
_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


@contextlib.contextmanager
def started(script: str, *arguments: object, scratch: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One of this folder's scripts in its own session, its output in scratch/SCRIPT.log; ended by SIGTERM.

    scratch: a folder for Ray's files, of a name so short that a socket's fits. Ends by SIGKILL what is left
    of the session, and raises AssertionError for it, but for Ray's agents: they take a minute to see that
    their node is gone.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(_HERE.parents[1]), os.environ.get("PYTHONPATH", "")]),
        "RAY_TMPDIR": str(scratch),
        "HOME": str(scratch),
    }
    command = [sys.executable, str(_HERE / script), *map(str, arguments)]
    with (scratch / f"{script}.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with contextlib.suppress(TimeoutError):
            wait_for(lambda: not outliving(process.pid), "the session to end", seconds=20)
        left = outliving(process.pid)
        for pid in session(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
    assert not left, f"outlived {script}: {left}"


def outliving(leader: int) -> list[str]:
    """The titles of a session's processes that should have ended with it."""
    titles = [_read(pid, "cmdline") for pid in session(leader)]
    return [title for title in titles if not title.startswith(_AGENTS)]


def wait_for(met: Callable[[], object], what: str, *, seconds: float = 120) -> None:
    """Asks until it is so. Raises TimeoutError where that takes longer."""
    end = time.monotonic() + seconds
    while not met():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:g} seconds for {what}")
        time.sleep(0.05)


def session(leader: int, title: str = "") -> list[int]:
    """The processes of a session that run and whose titles begin so."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        fields = _read(pid, "stat").rpartition(")")[2].split()
        if (
            fields
            and fields[0] != "Z"
            and int(fields[3]) == leader
            and _read(pid, "cmdline").startswith(title)
        ):
            found.append(pid)
    return found


def listeners(pids: list[int]) -> dict[str, set[str]]:
    """The addresses, in /proc's hexadecimal, at which processes listen for TCP, and their titles."""
    sockets = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A":
                sockets[f"socket:[{rest[5]}]"] = local.partition(":")[0]
    found: dict[str, set[str]] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                if (link := str(descriptor.readlink())) in sockets:
                    found.setdefault(sockets[link], set()).add(_read(pid, "cmdline"))
    return found


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text().replace("\0", " ")
    except OSError:
        return ""
