from __future__ import annotations

import functools

import pytest
import torch

from clipfast.bench.columns import Towers
from clipfast.bench.scenario import make_tower


@functools.cache
def _towers(model: str) -> Towers:
    return Towers(make_tower(model, torch.device("cpu")), compile=False, precisions=("fp32", "bf16"))


@pytest.fixture(scope="session")
def towers():
    """The towers of a model, made once a session."""
    return _towers
