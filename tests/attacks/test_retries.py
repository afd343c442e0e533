from __future__ import annotations

import torch
from toys import noisy, toy_logits, toy_pixels

from clipfast.attacks import make
from clipfast.attacks.system import Answer, System


def fickle(wrong_at):
    """A system whose answer to image i, told by its pixels, is wrong at the questions wrong_at[i]."""
    asked, seeds = [], []

    def answer(pixels, *, seed, **_):
        seeds.append(seed)
        images = (pixels[:, 0, 0, 0] * 10).round().long().tolist()
        asked.append(images)
        wrong = torch.tensor([len(asked) - 1 in wrong_at[i] for i in images])
        return Answer(torch.stack([~wrong, wrong], dim=1).float())

    return System(name="fickle", answer=answer, attackable=lambda x: x, randomised=True), asked, seeds


def test_one_wrong_answer_in_ten_is_enough():
    x = (torch.arange(3) / 10)[:, None, None, None].expand(3, 3, 2, 2).contiguous()
    system, asked, seeds = fickle([{0, 1}, {9}, {10}])
    retried = make("retries").run(system, x, torch.zeros(3, dtype=torch.int64), eps=0.1, seed=0)
    assert retried.broken.tolist() == [True, True, False]
    assert torch.equal(retried.pixels, x)
    assert asked == [[0, 1, 2], *[[1, 2]] * 9]
    assert len(set(seeds)) == 10


def test_break_more_than_one_question_does():
    logits, x = toy_logits(), toy_pixels(64)
    system, labels = noisy(logits, 0.05), logits(x).argmax(dim=1)
    broken = [
        make("retries", times=n).run(system, x, labels, eps=0.1, seed=0).broken.double().mean()
        for n in (1, 10)
    ]
    assert broken[1] > broken[0] + 0.05
