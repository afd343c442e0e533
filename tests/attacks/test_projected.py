from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from toys import accuracy, noisy, plain, toy_logits, toy_pixels

from clipfast.attacks import make
from clipfast.attacks.system import Answer, System


@pytest.fixture
def logits():
    return toy_logits()


@pytest.fixture
def batch(logits):
    x = toy_pixels(64)
    return x, logits(x).argmax(dim=1)


def by_hand(logits, x, labels, eps, steps):
    """Plain PGD, written again."""
    attacked = (x + (2 * torch.rand_like(x) - 1) * eps).clamp(0, 1)
    for _ in range(steps):
        leaf = attacked.clone().requires_grad_()
        F.cross_entropy(logits(leaf), labels, reduction="sum").backward()
        attacked = (attacked + eps / 2 * leaf.grad.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    return attacked


EPS = 0.015


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("pgd-10", {}),
        ("pgd-100", {}),
        ("cw", {"steps": 20}),
        ("apgd-ce", {}),
        ("apgd-dlr", {}),
        ("bpda", {}),
        ("targeted", {}),
        ("apgd-eot", {}),
    ],
)
def test_breaks_as_much_as_plain_pgd(logits, batch, name, settings):
    x, labels = batch
    system = plain(logits)
    wanted = accuracy(system, by_hand(logits, x, labels, EPS, 10), labels)
    assert 0.1 < wanted < 0.9
    attacked = make(name, **settings).run(system, x, labels, eps=EPS, seed=0)
    assert accuracy(system, attacked.pixels, labels) <= wanted
    assert not (attacked.broken & (logits(attacked.pixels).argmax(dim=1) == labels)).any()


def test_the_identity_as_defence_gives_plain_pgd(logits, batch):
    x, labels = batch

    def answer(pixels, **_):
        return Answer(logits(pixels))

    def drawing(pixels):
        return logits(pixels + 0 * torch.randn(pixels.shape))

    wanted = make("pgd-10").run(plain(logits), x, labels, eps=EPS, seed=5).pixels
    for defence in (logits, drawing):
        identity = System(name="identity", answer=answer, attackable=defence, randomised=defence is drawing)
        attacked = (
            make("bpda", steps=10, step_size=1 / 255, stops=False)
            .run(identity, x, labels, eps=EPS, seed=5)
            .pixels
        )
        assert torch.equal(attacked, wanted)


def test_random_noise_alone_is_broken_by_several_samples(logits, batch):
    x, labels = batch
    system = noisy(logits, 0.02)
    undefended = accuracy(plain(logits), by_hand(logits, x, labels, EPS, 10), labels)
    attack = make("bpda", steps=20, samples=8)
    attacked = attack.run(system, x, labels, eps=EPS, seed=0).pixels
    error = (undefended * (1 - undefended) / len(x)) ** 0.5
    assert accuracy(system, attacked, labels) <= undefended + 2 * error
    assert accuracy(system, x, labels) > undefended + 10 * error


def test_accuracy_falls_with_the_budget_to_nothing(logits, batch):
    x, labels = batch
    for system in (plain(logits), noisy(logits, 0.02)):
        found = []
        for eps in (0.002, 0.005, 0.01, 0.02, 0.05, 0.2):
            attack = make("bpda", steps=20, samples=2)
            found.append(accuracy(system, attack.run(system, x, labels, eps=eps, seed=0).pixels, labels))
        assert all(a >= b for a, b in pairwise(found))
        assert found[0] > 0.8
        assert found[-1] == 0


def test_more_samples_of_noise_do_not_hurt_and_in_few_steps_help(logits, batch):
    x, labels = batch
    system = noisy(logits, 0.2)
    for steps, helps in ((20, False), (2, True)):
        found = []
        for samples in (1, 4, 16):
            attack = make("bpda", steps=steps, samples=samples)
            found.append(accuracy(system, attack.run(system, x, labels, eps=EPS, seed=0).pixels, labels))
        error = (found[0] * (1 - found[0]) / len(x)) ** 0.5
        assert found[1] <= found[0] + error
        assert found[2] <= found[1] + error
        if helps:
            assert found[2] < found[0] - error / 2


def test_restarts_keep_the_best(logits, batch):
    x, labels = batch
    # One step from each start: there is something to choose from.
    once, often = (make("bpda", steps=1, restarts=n, step_size=EPS / 2) for n in (1, 8))
    pixels = [attack.run(plain(logits), x, labels, eps=EPS, seed=0).pixels for attack in (once, often)]
    losses = [F.cross_entropy(logits(p), labels, reduction="none") for p in pixels]
    correct = [accuracy(plain(logits), p, labels) for p in pixels]
    assert correct[1] < correct[0]
    unbroken = logits(pixels[1]).argmax(dim=1) == labels
    assert (losses[1] >= losses[0] - 1e-6)[unbroken].all()
    assert (losses[1] > losses[0] + 1e-3)[unbroken].any()


def test_restarts_without_stopping_keep_the_highest_loss(logits, batch):
    x, labels = batch
    runs = [
        make("pgd-10", steps=1, restarts=n, step_size=EPS / 2).run(plain(logits), x, labels, eps=EPS, seed=0)
        for n in (1, 4)
    ]
    first, best = (F.cross_entropy(logits(r.pixels), labels, reduction="none") for r in runs)
    assert (best >= first - 1e-6).all()
    assert best.mean() > first.mean() + 1e-3


def test_targeted_goes_towards_the_likely_wrong_classes(logits, batch):
    x, labels = batch
    z = logits(x).scatter(1, labels[:, None], -torch.inf)
    likely = z.topk(2, dim=1).indices
    rows = torch.arange(len(x))
    # Of one class, unstopped: its logit gains on the true one's, of the most likely class first.
    single = make("targeted", classes=1, stops=False).run(plain(logits), x, labels, eps=EPS, seed=0)
    gain = logits(single.pixels) - logits(x)
    assert ((gain[rows, likely[:, 0]] - gain[rows, labels]) > 0).all()
    assert (gain[rows, likely[:, 0]] > gain[rows, likely[:, 1]]).double().mean() > 0.8
    # Each class more breaks more, and what one class broke stays.
    left = []
    for classes in (1, 3, 9, 50):
        attack = make("targeted", classes=classes)
        attacked = attack.run(plain(logits), x, labels, eps=4 * EPS / 3, seed=0).pixels
        left.append(accuracy(plain(logits), attacked, labels))
    assert left[0] >= left[1] >= left[2] == left[3]  # of 10 classes there are no more
    assert left[2] < left[0]


def test_unrolled_goes_through_the_defence_s_own_gradient(logits, batch):
    x, labels = batch
    x, labels = x[:8], labels[:8]
    asked = []

    def unrolled(pixels):
        asked.append(len(pixels))
        return -logits(pixels)

    system = System(
        name="mirror", answer=lambda p, **_: Answer(logits(p)), attackable=logits, unrolled=unrolled
    )
    settings = {"eps": EPS, "seed": 0}
    held = make("bpda", stops=False).run(system, x, labels, **settings).pixels
    through = make("unrolled", stops=False).run(system, x, labels, **settings).pixels
    assert asked == [8] * 10
    rows = torch.arange(8)
    assert (logits(held)[rows, labels] < logits(x)[rows, labels]).all()
    assert (logits(through)[rows, labels] > logits(x)[rows, labels]).all()


def test_a_system_without_noise_is_asked_once_a_step_and_only_of_wrong_classes(logits, batch):
    x, labels = batch
    asked = []

    def counted(pixels):
        asked.append(len(pixels))
        return logits(pixels)

    settings = {"steps": 3, "samples": 4, "stops": False}
    make("bpda", **settings).run(counted, x, labels, eps=EPS, seed=0)
    assert len(asked) == 3
    asked.clear()
    make("targeted", classes=50, **settings).run(counted, x, labels, eps=EPS, seed=0)
    assert len(asked) == 1 + 9 * (3 + 1)  # the likely classes of ten, then 3 steps and a last look for each
