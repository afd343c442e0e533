"""What a call of the engine holds on its way."""

from __future__ import annotations

import torch
from towers import make_tower

from clipfast import CounterattackConfig
from clipfast.defence.batch import Batch
from clipfast.defence.counterattack import Probe
from clipfast.defence.rows import leaves
from clipfast.defence.schedule import Schedule
from clipfast.encoders import make_encoder
from clipfast.inputs.noise import Noise


def test_what_waits_on_holds_no_memory_of_rows_that_were_countered():
    schedule = Schedule(make_encoder(make_tower()), CounterattackConfig(), torch.tensor(0.2))
    x = torch.rand(6, 3, 32, 32)
    batch = Batch(
        schedule, x, Noise(torch.zeros_like(x)), with_delta=False, with_clean=False, with_answer=True
    )
    held = Probe(*(torch.rand(6, 4) for _ in range(5)), saved=(torch.rand(6, 4), torch.rand(6, 2, 3)))
    batch._waiting.append((torch.arange(6), held))
    batch._cut(4)
    (first, _), (rest, kept) = batch._waiting
    assert (first.tolist(), rest.tolist()) == ([0, 1, 2, 3], [4, 5])
    for tensor, whole in zip(leaves(kept), leaves(held), strict=True):
        assert tensor.equal(whole[4:])
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
