from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from conftest import make_tiny_clip
from torch import nn

from clipfast.models import fingerprint as fingerprints
from clipfast.models.fingerprint import fingerprint


@pytest.fixture
def digested(monkeypatch) -> list[int]:
    """How many tensors were read, a number each time that weights are."""
    read, digest = [], fingerprints._digest

    def counted(state):
        read.append(len(state))
        return digest(state)

    monkeypatch.setattr(fingerprints, "_digest", counted)
    return read


def test_follows_the_values_and_nothing_else():
    model = make_tiny_clip(seed=1)
    name = fingerprint(model)
    assert len(name) == 64
    assert fingerprint(make_tiny_clip(seed=1)) == name
    assert fingerprint(copy.deepcopy(model)) == name
    assert fingerprint(model.train().requires_grad_(False)) == name
    assert fingerprint(make_tiny_clip(seed=2)) != name
    with torch.no_grad():
        model.visual.proj[0, 0] += 1e-3
    assert fingerprint(model) != name


def test_weights_that_stay_are_read_once(digested):
    model = make_tiny_clip(seed=1)
    name = fingerprint(model)
    assert [fingerprint(model) for _ in range(3)] == [name] * 3
    assert len(digested) == 1
    fingerprint(model.visual)
    assert len(digested) == 2
    fingerprint(make_tiny_clip(seed=1))
    assert len(digested) == 3


def _rounded(module: nn.Module) -> None:
    # Neither the parameters nor their versions are others afterwards.
    module.half().float()


def _loaded(module: nn.Module) -> None:
    module.load_state_dict({name: tensor + 1e-3 for name, tensor in module.state_dict().items()})


def _assigned(module: nn.Module) -> None:
    state = {name: tensor + 1e-3 for name, tensor in module.state_dict().items()}
    module.load_state_dict(state, assign=True)


def _replaced(module: nn.Module) -> None:
    assert isinstance(module, nn.Linear)
    module.weight = nn.Parameter(module.weight.detach() + 1e-3)


def _swapped(module: nn.Module) -> None:
    assert isinstance(module, nn.Linear)
    module.weight.data = module.weight.detach() + 1e-3


def _transposed(module: nn.Module) -> None:
    assert isinstance(module, nn.Linear)
    module.weight.data = module.weight.data.T


@pytest.mark.parametrize("change", [_rounded, _loaded, _assigned, _replaced, _swapped, _transposed])
def test_weights_that_change_are_read_again(digested, change):
    module = nn.Linear(64, 64)
    name = fingerprint(module)
    change(module)
    gc.collect()
    again = fingerprint(module)
    assert again != name
    assert len(digested) == 2
    fresh = nn.Linear(64, 64)
    fresh.load_state_dict(module.state_dict())
    assert fingerprint(fresh) == again


def test_weights_without_a_version_are_read_each_time(digested):
    module = nn.Linear(4, 4)
    name = fingerprint(module)
    with torch.inference_mode():
        _assigned(module)
        assert fingerprint(module) == fingerprint(module) != name
    assert len(digested) == 3


def test_neither_modules_nor_weights_are_kept_alive():
    module = nn.Linear(4, 4)
    fingerprint(module)
    gone = weakref.ref(module.weight.untyped_storage()), weakref.ref(module)
    del module
    gc.collect()
    assert [ref() for ref in gone] == [None, None]
