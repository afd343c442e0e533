"""Made-up results of an evaluation: one defence gains, one does nothing, one harms, one is not attacked."""

from __future__ import annotations

from typing import Any

import numpy as np

from clipfast.defence.passes import Passes
from clipfast.evaluation.results import CLEAN, Column, Control, Point, Results, SystemResult

EPS = 1 / 255
N = 200

COLUMNS = (
    CLEAN,
    Column(key="pgd-10@1/255", title="PGD-10", kind="transfer", eps=EPS),
    Column(
        key="pgd-10p@1/255", title="PGD-10, predicted labels", kind="transfer", eps=EPS, labels="predicted"
    ),
    Column(key="bpda@1/255", title="BPDA + EOT", kind="adaptive", eps=EPS, upper_bound=True),
    Column(key="evasion@1/255", title="gate evasion", kind="adaptive", eps=EPS, upper_bound=True),
)

ATTACKED = {
    "undefended": (0.30, 0.28),
    "gains": (0.80, 0.78, 0.60),
    "nothing": (0.50, 0.48, 0.30),
    "harms": (0.60, 0.58, 0.20, 0.10),
    "unattacked": (0.90, 0.88),
}


def make_results(*, seeds: int = 2, drift_shift: float = -0.5, **run: Any) -> Results:
    """drift_shift: of attacked pictures' log drift, against a spread of 0.5."""
    rng = np.random.default_rng(0)
    systems = [_system(name, shares, seeds, drift_shift, rng) for name, shares in ATTACKED.items()]
    curve = [Point(x, y, N) for x, y in ((0.0, 0.9), (EPS, 0.4), (4 * EPS, 0.0))]
    return Results(
        run={
            "model": "drawn",
            "pretrained": None,
            "weights_sha256": "0123456789abcdef" * 4,
            "data": "shapes",
            "images": N,
            "skipped": 2,
            "seed": 7,
            "seeds": seeds,
            "budget": "quick",
            "settings": {"eps": 4 / 255},
            "versions": {"clipfast": "0.1", "torch": "2.15"},
            **run,
        },
        eps=(EPS,),
        columns=COLUMNS,
        systems=systems,
        by_eps={"undefended": curve, "harms": [Point(p.x, p.accuracy / 2, N) for p in curve]},
        by_samples={"harms": [Point(1, 0.3, N), Point(4, 0.22, N), Point(16, 0.2, N)]},
        controls=[
            Control("identity", True, "plain PGD 31.0 %, identity 31.5 %"),
            Control("noise", True, "0.5 %"),
        ],
    )


def _system(
    name: str, shares: tuple[float, ...], seeds: int, shift: float, rng: np.random.Generator
) -> SystemResult:
    clean = flags(0.95, seeds, rng)
    keys = [column.key for column in COLUMNS[1:]]
    right = {CLEAN.key: clean} | {
        key: flags(share, seeds, rng) for key, share in zip(keys, shares, strict=False)
    }
    result = SystemResult(
        name=name,
        description=f"the system that {name}",
        randomised=name != "undefended",
        right=right,
        passes={CLEAN.key: Passes(1.0, 0.0) if name == "undefended" else Passes(2.4, 0.4)},
        images_per_second=100.0,
        cost=1.0 if name == "undefended" else 2.5,
    )
    if name == "harms":
        result.tau_threshold = 0.02
        for key, by in ((CLEAN.key, 0.0), (keys[0], shift), (keys[1], shift)):
            drift = np.exp(rng.normal(np.log(0.025) + by, 0.5, N)).astype(np.float32)
            result.drift[key], result.countered[key] = drift, drift < 0.02
        result.attack_passes = {keys[2]: Passes(220.0, 120.0), keys[3]: Passes(240.0, 130.0)}
    return result


def flags(share: float, seeds: int, rng: np.random.Generator) -> np.ndarray:
    """bool [S, N]: exactly this share right, the same images with every seed but for one flip a seed."""
    right = np.arange(N) < round(share * N)
    rng.shuffle(right)
    return np.stack([right] * seeds)
