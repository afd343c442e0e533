"""Results as JSON and back."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from made_up import make_results

from clipfast import InputError
from clipfast.evaluation.results import RESULTS_SCHEMA, Results


def as_lists(value):
    """Dataclasses, tuples and arrays as what JSON has, with each array's type and shape."""
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, value.tolist()]
    if dataclasses.is_dataclass(value):
        return {field.name: as_lists(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    return [as_lists(item) for item in value] if isinstance(value, list | tuple) else value


def test_json_gives_equal_results_back():
    results = make_results()
    read = Results.from_json(results.to_json())
    assert as_lists(read) == as_lists(results)
    assert isinstance(read.eps, tuple)
    assert isinstance(read.columns, tuple)
    assert read.to_json() == results.to_json()


def test_flags_are_written_as_digits():
    values = json.loads(make_results().to_json())
    assert values["schema"] == RESULTS_SCHEMA
    assert {str(flag) for flag in values["systems"][0]["right"]["clean"][0]} == {"0", "1"}


def altered(change) -> str:
    values = json.loads(make_results().to_json())
    change(values)
    return json.dumps(values)


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.pop("schema"),
        lambda values: values.update(schema=RESULTS_SCHEMA + 1),
        lambda values: values.pop("systems"),
        lambda values: values["columns"][0].update(colour="red"),
        lambda values: values["systems"][0].pop("right"),
        lambda values: values["systems"][0]["right"].update(clean=[[0, 1], [1]]),
        lambda values: values["systems"][1]["right"].update(clean=[[0, 1], [1, 1]]),
        lambda values: values["systems"][0]["right"].update(clean=[0, 1]),
        lambda values: values["systems"][0]["right"].update(unheard=values["systems"][0]["right"]["clean"]),
        lambda values: values["systems"][3]["drift"].update(clean=[0.1]),
        lambda values: values.update(systems=[]),
        lambda values: values.update(controls=[{"name": "identity"}]),
    ],
)
def test_other_json_is_named(change):
    with pytest.raises(InputError, match="expected"):
        Results.from_json(altered(change))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"schema"'])
def test_what_is_no_json_of_an_evaluation_is_named(text):
    with pytest.raises(InputError, match="expected the JSON of an evaluation"):
        Results.from_json(text)
