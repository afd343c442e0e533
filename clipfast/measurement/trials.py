"""Trials: which of several forms is the fastest on this machine now, tried once and kept.

They are kept in memory, and in a file too if the environment variable CLIPFAST_TRIALS names a folder. A file
is for one CPU, number of threads, version of torch and version of clipfast.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from .._version import __version__
from ..files import write_text
from .interleave import rounds
from .machine import cpu_name

__all__ = ["Trial", "fastest", "keep", "kept", "measure"]

FOLDER_VARIABLE = "CLIPFAST_TRIALS"
# A form that is preferred is kept unless another takes less than this share of its time.
WORTH_IT = 0.97
_ROUNDS, _LEAST = 7, 3

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_trials: dict[Path | None, dict[str, Trial]] = {}


class Trial(NamedTuple):
    """What a trial found.

    Attributes:
        chosen: The name of the form that is used.
        seconds: The shortest time of each form, by name. Other work on the machine makes times longer
            and none shorter.
    """

    chosen: str
    seconds: dict[str, float]


def kept() -> dict[str, Trial]:
    """Returns the trials so far of this number of threads, by what was tried."""
    with _lock:
        return dict(_of(_file()))


def keep(trials: Mapping[str, Trial]) -> None:
    """Keeps trials, by what was tried. A file that cannot be written is logged and no error."""
    if not trials:
        return
    file = _file()
    with _lock:
        found = _of(file)
        found |= trials
        if file is not None:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                write_text(file, json.dumps(found, indent=1) + "\n")
            except Exception as error:  # the answers do not depend on it
                _log.warning("trials are not kept: %s", error)


def fastest(
    what: str,
    forms: Mapping[str, Callable[[], object]],
    *,
    preferred: str,
    seconds: float,
    worth_it: float = WORTH_IT,
    images: Mapping[str, int] | None = None,
) -> str:
    """Returns the name of the fastest form: the kept one, or that of a trial now, which is kept.

    Args:
        what: What is tried, in words; with the forms' names it identifies the trial.
        forms: What to run, by name.
        preferred: The name of the form to take unless another is clearly faster.
        seconds: The time for the trial, after which no further round begins.
        worth_it: The share of the preferred form's time below which another is clearly faster.
        images: How many images each form handles, if their numbers differ.
    """
    known = kept().get(what)
    if known is not None and known.seconds.keys() == forms.keys():
        return known.chosen
    shortest = measure(forms, seconds)
    if images is not None:
        shortest = {name: taken / images[name] for name, taken in shortest.items()}
    trial = Trial(choose(shortest, preferred, worth_it), shortest)
    keep({what: trial})
    return trial.chosen


def measure(forms: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Returns the shortest seconds of forms that take turns, in three to seven rounds after one of warm-up.

    Args:
        forms: What to run, by name.
        seconds: The time after which no further round begins, if three were made.
    """
    deadline, taken = time.perf_counter() + seconds, []
    for found in rounds(forms, _ROUNDS):
        taken.append(found)
        if len(taken) >= _LEAST and time.perf_counter() > deadline:
            break
    return {name: min(found[name] for found in taken) for name in forms}


def choose(seconds: Mapping[str, float], preferred: str, worth_it: float = WORTH_IT) -> str:
    """Returns the name of the fastest form, or the preferred one unless another is clearly faster."""
    best = min(seconds, key=seconds.__getitem__)
    return best if seconds[best] < worth_it * seconds[preferred] else preferred


def _of(file: Path | None) -> dict[str, Trial]:
    key = file if file is not None else Path(f"threads-{torch.get_num_threads()}")
    if key not in _trials:
        _trials[key] = {} if file is None else _read(file)
    return _trials[key]


def _read(file: Path) -> dict[str, Trial]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return {
            str(what): Trial(str(chosen), {str(name): float(taken) for name, taken in seconds.items()})
            for what, (chosen, seconds) in values.items()
            if chosen in seconds
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        _log.warning("trials in %s are made anew: %s", file, error)
        return {}


def _file() -> Path | None:
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return None
    machine = f"{cpu_name()} {torch.get_num_threads()} threads, torch {torch.__version__}, {__version__}"
    return Path(folder) / f"trials-{hashlib.sha256(machine.encode()).hexdigest()[:16]}.json"
