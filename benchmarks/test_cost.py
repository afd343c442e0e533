"""Cost of the defence, by scenario: `pytest benchmarks --benchmark-json=FILE`.

A round runs every column once, so pytest-benchmark's own time is that of a whole round; the columns' medians
and paired ratios are in `extra_info`. `make bench` measures all scenarios, each in its own process.
"""

from __future__ import annotations

import dataclasses

import pytest

from clipfast.bench.columns import check, closure, names
from clipfast.bench.run import summary
from clipfast.bench.scenario import Scenario, make_images
from clipfast.measurement.interleave import rounds

SCENARIOS = [
    Scenario(model="ViT-B-32", batch=batch, countered=countered, rounds=count)
    for batch, countered, count in ((1, 0, 9), (1, 1, 5), (8, 0, 3), (8, 8, 3))
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_cost(benchmark, towers, scenario):
    forms = towers(scenario.model)
    images = make_images(forms.eager, scenario.batch, scenario.countered)
    for precision in forms.precisions:
        check(forms, images, precision)
    columns = {name: closure(name, forms, images) for name in names(forms)}
    measuring = rounds(columns, scenario.rounds + 1)
    measured = [next(measuring)]
    benchmark.group = scenario.name
    benchmark.pedantic(lambda: measured.append(next(measuring)), rounds=scenario.rounds)
    seconds = {name: [each[name] for each in measured] for name in names(forms)}
    result = summary({"seconds": seconds})
    benchmark.extra_info["milliseconds"] = result["milliseconds"]
    for name, ratios in result["engines"].items():
        benchmark.extra_info[name] = {
            key: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
            for key, value in ratios.items()
        }
