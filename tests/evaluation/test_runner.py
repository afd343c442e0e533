"""What is kept of attacks and answers, and how flags and passes are gathered from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from clipfast.attacks import Attack, make
from clipfast.attacks.system import Answer, System
from clipfast.evaluation.attacking import attack_defences
from clipfast.evaluation.datasets import Images
from clipfast.evaluation.defences import Defence
from clipfast.evaluation.planned_attacks import Planned
from clipfast.evaluation.results import Column
from clipfast.evaluation.runner import Runner
from clipfast.evaluation.store import Store

EPS = 0.1
GREY = (100, 150, 200, 250)


@dataclass(frozen=True, kw_only=True)
class Darker(Attack):
    """Takes a share of eps from every pixel; `seen` gets what it starts from, `room` what fits one call."""

    share: float = 1.0
    breaks: bool = False
    seen: list[Tensor] = field(default_factory=list, repr=False)
    room: list[int] = field(default_factory=list, repr=False)

    @property
    def ticks(self) -> int:
        return 1

    def _run(self, system, pixels, labels, eps, tick, batch_size):  # noqa: ARG002
        self.seen.append(pixels)
        self.room.append(batch_size)
        return pixels - self.share * eps, torch.full((len(pixels),), self.breaks)


def bright(pixels: Tensor) -> Tensor:
    """Class 1 where an image's mean is above one half, by its distance."""
    mean = pixels.mean(dim=(1, 2, 3)) - 0.5
    return torch.stack([-mean, mean], dim=1)


def plain(pixels: Tensor, *, seed: int, first_image: int = 0) -> Answer:  # noqa: ARG001
    return Answer(bright(pixels))


def fickle(pixels: Tensor, *, seed: int, first_image: int = 0) -> Answer:
    """In every odd round the image of that index is seen in negative."""
    logits = bright(pixels)
    if seed % 2 and first_image <= seed < first_image + len(pixels):
        logits[seed - first_image] *= -1
    return Answer(logits)


def defence(name: str = "none", answer=plain, *, randomised: bool = False) -> Defence:
    system = System(name=name, answer=answer, attackable=bright, randomised=randomised)
    return Defence(name=name, system=system, description="", identity={"defence": name})


def runner(tmp_path: Path, *, seeds: int = 1, chunk: int = 4) -> Runner:
    pixels = torch.tensor(GREY, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2).contiguous()
    return Runner(
        images=Images(names=tuple("abcd"), pixels=pixels, labels=torch.tensor([0, 1, 1, 1])),
        store=Store(tmp_path / "run", {}),
        device=torch.device("cpu"),
        chunk=chunk,
        seed=0,
        seeds=seeds,
        tick=lambda _: None,
    )


def plan(*attacks: tuple[str, Attack]) -> dict[float, list[Planned]]:
    return {
        EPS: [
            Planned(Column(key=f"{attack.name}", title="", kind=kind, eps=EPS), attack)
            for kind, attack in attacks
        ]
    }


def test_transferred_pixels_are_the_attacks_whether_made_or_kept(tmp_path):
    run, attack = runner(tmp_path), Darker(name="darker", share=0.3)
    x = run.clean(slice(0, 4))
    for _ in range(2):
        got = run.transferred(attack, defence(), x, run.labels(slice(0, 4)), EPS)
        torch.testing.assert_close(got, x - 0.3 * EPS, rtol=0, atol=2e-5)  # by way of float16
    assert len(attack.seen) == 1
    whole = run.transferred(Darker(name="darker"), defence(), x, run.labels(slice(0, 4)), EPS)
    assert (x - whole).max() <= EPS + 1e-6


def test_parts_of_other_budgets_settings_labels_and_defences_are_others(tmp_path):
    run = runner(tmp_path)
    rows = slice(0, 4)
    x, y = run.clean(rows), run.labels(rows)
    attack = Darker(name="darker", share=0.3)
    run.transferred(attack, defence(), x, y, EPS)
    for changed in (
        (attack, defence(), x, y, EPS / 2),
        (attack, defence("other"), x, y, EPS),
        (attack, defence(), x, 1 - y, EPS),
        (attack, defence(), x + 0.01, y, EPS),
    ):
        before = len(attack.seen)
        run.transferred(*changed)
        assert len(attack.seen) == before + 1
    other = Darker(name="darker", share=0.4)
    run.transferred(other, defence(), x, y, EPS)
    assert len(other.seen) == 1
    alive = [torch.tensor([True, False, True, False]), torch.tensor([True, False, False, True])]
    same = torch.full_like(x, 0.7)
    for some in alive:  # equal pictures in other places, where other noise is drawn
        run.attacked(attack, defence(), same, rows, some, EPS)
    assert len(attack.seen) == 7


def test_answers_are_of_the_attacked_pixels_at_their_own_places(tmp_path):
    run = runner(tmp_path, seeds=4)
    alive = torch.tensor([False, True, True, True])
    made = run.attacked(
        Darker(name="darker"), defence("fickle", fickle, randomised=True), run.clean(slice(0, 4)),
        slice(0, 4), alive, EPS,
    )  # fmt: skip
    # 150 grey levels less 25 are below one half; rounds 1 and 3 turn the images of these indices.
    np.testing.assert_array_equal(made.labels, [[0, 1, 1], [1, 1, 1], [0, 1, 1], [0, 1, 0]])


def test_rounds_of_noise_differ_by_seed_and_place(tmp_path):
    run = runner(tmp_path, seeds=4, chunk=2)
    suite = [defence(), defence("fickle", fickle, randomised=True)]
    results = attack_defences(run, suite, plan(("adaptive", Darker(name="darker"))))
    assert results is not None
    expected = np.ones((4, 4), bool)
    expected[1, 1] = expected[3, 3] = False
    np.testing.assert_array_equal(results.systems[1].right["clean"], expected)
    np.testing.assert_array_equal(results.systems[0].right["clean"], np.ones((4, 4), bool))
    # Only images that are right in every round are attacked: 0 and 2.
    attacked = results.systems[1].right["darker"]
    np.testing.assert_array_equal(attacked, [[True, False, True, False]] * 4)


def test_what_an_attack_saw_broken_is_broken_and_is_attacked_no_more(tmp_path):
    first, second = Darker(name="first", share=0.0, breaks=True), Darker(name="second")
    results = attack_defences(runner(tmp_path), [defence()], plan(("adaptive", first), ("adaptive", second)))
    assert results is not None
    assert not results.systems[0].right["first"].any()
    assert not results.systems[0].right["second"].any()
    assert not second.seen


def test_few_images_have_the_room_of_a_chunk(tmp_path):
    transfer, adaptive = Darker(name="transfer", share=0.0), Darker(name="adaptive")
    attack_defences(
        runner(tmp_path, chunk=3), [defence()], plan(("transfer", transfer), ("adaptive", adaptive))
    )
    assert [len(pixels) for pixels in adaptive.seen] == [3, 1]
    assert transfer.room == adaptive.room == [3, 3]


class Asking(Darker):
    keeps_pixels = True


def test_retries_ask_about_the_transferred_pictures(tmp_path):
    transfer, retries = Darker(name="transfer", share=0.5), Asking(name="retries", share=0.0)
    assert make("retries").keeps_pixels
    own = Darker(name="own")
    run = runner(tmp_path)
    attack_defences(run, [defence()], plan(("transfer", transfer), ("adaptive", own), ("adaptive", retries)))
    clean = run.clean(slice(0, 4))
    torch.testing.assert_close(own.seen[0], clean)
    torch.testing.assert_close(retries.seen[0], clean[[0, 2, 3]] - 0.5 * EPS, rtol=0, atol=3e-5)


@pytest.mark.parametrize("chunk", [3, 4])
def test_passes_are_averaged_over_images_and_not_over_chunks(tmp_path, chunk, monkeypatch):
    class Counter:
        """Counts an image of index i as i + 1 forward passes."""

        def __init__(self, *_: object) -> None:
            self.forward, self.backward = 0, 0

        def __enter__(self) -> Counter:
            counters.append(self)
            return self

        def __exit__(self, *_: object) -> None:
            counters.remove(self)

    def counting(pixels: Tensor, *, seed: int, first_image: int = 0) -> Answer:
        for counter in counters:
            counter.forward += sum(first_image + i + 1 for i in range(len(pixels)))
        return plain(pixels, seed=seed)

    counters: list[Counter] = []
    monkeypatch.setattr("clipfast.evaluation.runner.PassCounter", Counter)
    results = attack_defences(runner(tmp_path, chunk=chunk), [defence("counting", counting)], {EPS: []})
    assert results is not None
    assert results.systems[0].passes["clean"].forward == pytest.approx(2.5)
