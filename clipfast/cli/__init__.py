"""The command line: `clipfast classify`, `export`, `verify`, `eval`, `calibrate`, `demo` and `bench`."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from typing import Annotated, NoReturn

import typer

from .. import __version__
from ..errors import ArtifactError, InputError, OutOfMemoryError, VerificationError, names_extra
from ..threads import spin_briefly
from . import bench, calibrate, classify, demo, evaluate, export, verify
from .console import tell

__all__ = ["app", "main"]

app = typer.Typer(
    name="clipfast",
    help="CLIP, defended at inference against adversarial perturbations (TTC).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
# In the order of the help.
for _name, _module in {
    "classify": classify,
    "export": export,
    "verify": verify,
    "demo": demo,
    "bench": bench,
    "eval": evaluate,
    "calibrate": calibrate,
}.items():
    app.command(_name)(_module.command)


def main(command: typer.Typer = app) -> None:
    """Runs a command line.

    A problem with the input ends it with a message and exit code 2. So do missing packages, files that
    cannot be read or written, and too little memory. The exit code is 1 if a verified file disagrees, or
    if whoever reads standard output stops reading.

    Args:
        command: The command line to run.
    """
    spin_briefly()  # before a command imports torch
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for names with letters the terminal lacks
    try:
        try:
            command()
        finally:
            sys.stdout.flush()
    except VerificationError as error:
        _fail(str(error), code=1)
    except (InputError, ArtifactError) as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        _fail(str(names_extra("this command", error)))
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader of standard output has closed it
            _close_output()
            sys.exit(1)
        _close_output()
        place = "" if error.filename is None else f"{error.filename}: "
        _fail(f"{place}{error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        _fail(str(error) or "out of memory")


def _close_output() -> None:
    """Drops what cannot be written, because Python would try to write it again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _fail(message: str, *, code: int = 2) -> NoReturn:
    tell("[bold red]error:[/]", message)
    sys.exit(code)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out. Recognises torch's errors by name, so that torch need not be imported."""
    named = type(error).__name__ == OutOfMemoryError.__name__
    return named or isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def _version(value: bool) -> None:
    if value:
        print(f"clipfast {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens to stderr.")] = False,
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
