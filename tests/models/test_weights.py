from __future__ import annotations

import pytest
import torch
from torch import nn

from clipfast.models.weights import Snapshot


def module() -> nn.Module:
    made = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1, bias=False))
    return made.eval().requires_grad_(False)


def in_place(m: nn.Module) -> None:
    m[0].bias.add_(1)


def a_buffer(m: nn.Module) -> None:
    m[1].running_mean.add_(1)


def swapped(m: nn.Module) -> None:
    m[0].weight.data = m[0].weight.data.clone()


def assigned(m: nn.Module) -> None:
    m.load_state_dict({name: value.clone() for name, value in m.state_dict().items()}, assign=True)


def a_bias_more(m: nn.Module) -> None:
    m[2].bias = nn.Parameter(torch.zeros(1))


def a_module_more(m: nn.Module) -> None:
    m.append(nn.ReLU())


def a_module_replaced(m: nn.Module) -> None:
    m[1] = nn.Identity()


@pytest.mark.parametrize(
    "change", [in_place, a_buffer, swapped, assigned, a_bias_more, a_module_more, a_module_replaced]
)
def test_every_way_to_change_weights_is_noticed(change):
    m = module()
    snapshot = Snapshot(m.modules())
    m(torch.ones(2, 2))
    m.to("cpu")
    assert snapshot.holds()
    change(m)
    assert not snapshot.holds()
    assert Snapshot(m.modules()).holds()


def test_weights_of_inference_mode_have_no_version_and_are_compared_all_the_same():
    with torch.inference_mode():
        m = module()
    snapshot = Snapshot(m.modules())
    assert snapshot.holds()
    assigned(m)
    assert not snapshot.holds()
