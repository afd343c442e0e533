"""What an evaluation found, image by image: what reports are made from, and written as JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..defence.passes import Passes
from ..errors import InputError

__all__ = ["CLEAN", "Column", "Control", "Point", "Results", "SystemResult"]

RESULTS_SCHEMA = 1

ColumnKind = Literal["clean", "transfer", "adaptive"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One attack at one budget; every system has flags under each column that applies to it.

    key: unique, as "clean", "pgd-10@1/255", "bpda@1/255". kind: "transfer", made on the undefended model and
    the same for all systems; or "adaptive", made on each system itself. An adaptive attack starts from the
    images that every earlier adaptive attack at its eps left right, so that its flags are cumulative.
    eps: l-inf budget in [0, 1] pixel units. labels: which label the attacker moves away from. upper_bound:
    too few steps to be more than that.
    """

    key: str
    title: str
    kind: ColumnKind
    eps: float | None = None
    labels: Literal["true", "predicted"] = "true"
    upper_bound: bool = False


CLEAN = Column(key="clean", title="clean", kind="clean")


@dataclass(frozen=True)
class Point:
    """A point of a curve: accuracy in [0, 1] of n images at x."""

    x: float
    accuracy: float
    n: int


@dataclass(frozen=True)
class Control:
    """A check that the attacks are strong: what was found, and whether that is as it must be."""

    name: str
    passed: bool
    detail: str


@dataclass(kw_only=True)
class SystemResult:
    """What one system did with N images. Keys are those of columns; seeds are the S rounds of noise.

    right: bool [S, N]. drift: float32 [N], countered: bool [N], of the first seed; only with a gate, and for
    clean and transfer columns. passes: what an answer costs, by column. attack_passes: what an adaptive
    attack spent an image. images_per_second: on clean pictures. cost: time over the undefended system's.
    """

    name: str
    description: str
    randomised: bool
    tau_threshold: float | None = None
    right: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    drift: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    countered: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    passes: dict[str, Passes] = field(default_factory=dict)
    attack_passes: dict[str, Passes] = field(default_factory=dict)
    images_per_second: float | None = None
    cost: float | None = None


@dataclass(kw_only=True)
class Results:
    """An evaluation. `run` is what its figures are quoted with: model, pretrained, weights_sha256, data,
    images, skipped, seed, seeds, budget, settings, versions. systems: the first is undefended. by_eps,
    by_samples: accuracy against eps and against noise samples a step (EOT), by a system's name."""

    run: dict[str, Any]
    eps: tuple[float, ...]
    columns: tuple[Column, ...]
    systems: list[SystemResult]
    by_eps: dict[str, list[Point]] = field(default_factory=dict)
    by_samples: dict[str, list[Point]] = field(default_factory=dict)
    controls: list[Control] = field(default_factory=list)

    def to_json(self) -> str:
        """The JSON text; `from_json` gives equal results back."""
        values = {"schema": RESULTS_SCHEMA, **dataclasses.asdict(self)}
        return json.dumps(values, indent=1, default=_plain) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Results:
        """Reads what `to_json` wrote. Raises InputError for anything else, and for flags that do not fit."""
        try:
            values = json.loads(text)
            if values.pop("schema") != RESULTS_SCHEMA:
                raise InputError(f"expected results of schema {RESULTS_SCHEMA}")
            results = cls(
                run=values["run"],
                eps=tuple(values["eps"]),
                columns=tuple(Column(**column) for column in values["columns"]),
                systems=[_system(system) for system in values["systems"]],
                by_eps=_curves(values["by_eps"]),
                by_samples=_curves(values["by_samples"]),
                controls=[Control(**control) for control in values["controls"]],
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"expected the JSON of an evaluation: {error!r}") from error
        _check(results)
        return results


def _check(results: Results) -> None:
    keys = {column.key for column in results.columns}
    found = [
        (system.name, name, key, array.shape)
        for system in results.systems
        for name in ("right", "drift", "countered")
        for key, array in getattr(system, name).items()
    ]
    if not found:
        raise InputError("expected results of one system or more under one column or more")
    images = found[0][3][-1]
    for system, name, key, shape in found:
        if (
            key not in keys
            or len(shape) != (2 if name == "right" else 1)
            or shape[-1] != images
            or 0 in shape
        ):
            raise InputError(
                f"expected {name} of {images} images under one of {sorted(keys)} for {system!r}, "
                f"got shape {shape} under {key!r}"
            )


def _plain(value: Any) -> Any:
    """Flags as 0 and 1, which take a quarter of the room."""
    assert isinstance(value, np.ndarray)
    return (value.astype(np.uint8) if value.dtype == bool else value).tolist()


def _system(values: dict[str, Any]) -> SystemResult:
    arrays = {"right": np.bool_, "countered": np.bool_, "drift": np.float32}
    read = {
        name: {key: np.array(row, dtype) for key, row in values[name].items()}
        for name, dtype in arrays.items()
    }
    passes = {
        name: {key: Passes(**row) for key, row in values[name].items()}
        for name in ("passes", "attack_passes")
    }
    return SystemResult(**{**values, **read, **passes})


def _curves(values: dict[str, Any]) -> dict[str, list[Point]]:
    return {name: [Point(**point) for point in points] for name, points in values.items()}
