"""What an evaluation found, image by image; reports are made from it, and it is written as JSON."""

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

    An adaptive attack starts from the images that every earlier adaptive attack at its eps left right, so
    its flags are cumulative.

    Attributes:
        key: A unique name, such as "clean", "pgd-10@1/255" or "bpda@1/255".
        title: What reports call it.
        kind: "clean", no attack; "transfer", made on the undefended model and the same for all systems;
            or "adaptive", made on each system itself.
        eps: The l-inf budget, in [0, 1] pixel units; None for "clean".
        labels: Which labels the attacker moves away from.
        upper_bound: Whether a stronger attack may lower its figures, as it had few steps or others were
            left out.
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
    """A point of a curve.

    Attributes:
        x: Where it lies: an l-inf budget in [0, 1] pixel units, or a number of samples of noise.
        accuracy: The share of images that are right, in [0, 1].
        n: The number of images.
    """

    x: float
    accuracy: float
    n: int


@dataclass(frozen=True)
class Control:
    """A check that the attacks are strong.

    Attributes:
        name: What must hold.
        passed: Whether it holds.
        detail: What was found.
    """

    name: str
    passed: bool
    detail: str


@dataclass(kw_only=True)
class SystemResult:
    """What one system did with N images in S rounds of noise.

    The keys of its dicts are those of columns.

    Attributes:
        name: What reports call it.
        description: What it is, for readers.
        randomised: Whether it draws noise.
        tau_threshold: The threshold of its gate; None without one.
        right: bool [S, N], the images that it gets right.
        drift: float32 [N], what its gate measures in the first round; under clean and transfer columns.
        countered: bool [N], the images that its gate countered in the first round; under those columns.
        passes: Encoder passes that an answer costs.
        attack_passes: Encoder passes that an adaptive attack spent, an image.
        images_per_second: Its speed on clean pictures.
        cost: Its time over the undefended system's.
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
    """What an evaluation found.

    Attributes:
        run: What its figures are quoted with, among others model, pretrained, weights_sha256, data,
            images, skipped, seed, seeds, budget, settings and versions.
        eps: l-inf budgets in [0, 1] pixel units.
        columns: Clean pictures, and the attacks at each budget.
        systems: One result of each system; the first is undefended.
        by_eps: Accuracy against eps, by a system's name.
        by_samples: Accuracy against samples of noise a step (EOT), by a system's name.
        controls: Checks that the attacks are strong.
    """

    run: dict[str, Any]
    eps: tuple[float, ...]
    columns: tuple[Column, ...]
    systems: list[SystemResult]
    by_eps: dict[str, list[Point]] = field(default_factory=dict)
    by_samples: dict[str, list[Point]] = field(default_factory=dict)
    controls: list[Control] = field(default_factory=list)

    def to_json(self) -> str:
        """Returns the JSON text, from which `from_json` makes equal results."""
        values = {"schema": RESULTS_SCHEMA, **dataclasses.asdict(self)}
        return json.dumps(values, indent=1, default=_plain) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Results:
        """Reads what `to_json` wrote.

        Raises:
            InputError: If the text is anything else, or its flags do not fit its columns or each other.
        """
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
    """Turns flags into 0 and 1, which take a quarter of the room."""
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
