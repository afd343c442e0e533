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
    """Runs a command line; problems with the input end it with a message and exit code 2.

    So do packages that are missing, files that cannot be written and memory that does not suffice; a file
    that is verified and disagrees ends it with exit code 1.
    """
    spin_briefly()  # before a command imports torch
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # of names that the terminal has no letters for
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
        if error.errno == errno.EPIPE:  # whoever read has enough
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
    """Drops what cannot be written, which Python would try again at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _fail(message: str, *, code: int = 2) -> NoReturn:
    tell("[bold red]error:[/]", message)
    sys.exit(code)


def _is_out_of_memory(error: Exception) -> bool:
    """Also of torch's errors, which is not imported for their sake."""
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
