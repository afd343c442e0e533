import torch
from conftest import make_tiny_clip

from clipfast.models.fingerprint import fingerprint


def test_follows_the_values_and_nothing_else():
    model = make_tiny_clip(seed=1)
    name = fingerprint(model)
    assert len(name) == 64
    assert fingerprint(make_tiny_clip(seed=1)) == name
    assert fingerprint(model.train().requires_grad_(False)) == name
    assert fingerprint(make_tiny_clip(seed=2)) != name
    with torch.no_grad():
        model.visual.proj[0, 0] += 1e-3
    assert fingerprint(model) != name
