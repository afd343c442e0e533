from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from clipfast.evaluation.attacks import pgd


@pytest.fixture
def system():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4)
    )


@pytest.fixture
def batch(system):
    x = torch.rand(16, 3, 8, 8)
    return x, system(x).argmax(1)


def test_breaks_the_system_within_its_budget(system, batch):
    x, labels = batch
    attacked = pgd(system, x, labels, eps=0.2, step_size=0.05, steps=20)
    assert (attacked - x).abs().max() <= 0.2 + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    before, after = (F.cross_entropy(system(p), labels).item() for p in (x, attacked))
    assert after > before + 0.5
    assert (system(attacked).argmax(1) == labels).double().mean() < 0.5
    assert not attacked.requires_grad


def test_climbs_the_gradient_of_a_linear_system_to_the_corner():
    weight = torch.randn(2, 3 * 4 * 4)
    x = torch.full((3, 3, 4, 4), 0.5)
    labels = torch.zeros(3, dtype=torch.int64)
    attacked = pgd(lambda p: p.flatten(1) @ weight.T, x, labels, eps=0.1, step_size=0.05, steps=8)
    corner = 0.5 + 0.1 * (weight[1] - weight[0]).sign().reshape(3, 4, 4)
    torch.testing.assert_close(attacked, corner.expand_as(attacked))


def test_generator_fixes_the_start(system, batch):
    x, labels = batch

    def run(seed):
        return pgd(
            system,
            x,
            labels,
            eps=0.1,
            step_size=0.001,
            steps=1,
            generator=torch.Generator().manual_seed(seed),
        )

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_samples_average_a_randomised_system(batch, system):
    x, labels = batch
    calls = []

    def noisy(p):
        calls.append(len(p))
        return system(p + 0.3 * torch.randn_like(p))

    steps = []
    pgd(noisy, x, labels, eps=0.1, step_size=0.02, steps=3, samples=5, progress=lambda: steps.append(1))
    assert len(calls) == 15
    assert len(steps) == 3
