import asyncio

import pytest
from admission import Admission, Cost, cost
from batcher import Batcher

from clipfast import CounterattackConfig
from clipfast.errors import InputError
from clipfast.runtime import OnnxClassifier

COST = Cost(passed=2, countered=6)


def admitted(admission: Admission) -> int:
    """How many a crowd gets in."""
    count = 0
    while admission.admit():
        count += 1
        assert count < 1000
    return count


def left(admission: Admission) -> None:
    while admission.waiting:
        admission.release()


def test_before_anything_is_known_everyone_is_charged_the_worst():
    assert admitted(Admission(60, COST)) == 10
    assert admitted(Admission(65, COST)) == 10
    assert admitted(Admission(6, COST)) == 1


def test_cheap_traffic_lets_more_in_and_never_past_the_budget():
    admission = Admission(61, COST)
    counts = []
    for _ in range(100):
        counts.append(admitted(admission))
        assert admission.outstanding <= 61
        assert admission.full
        left(admission)
        admission.observe([False] * 8, 1.0)
    assert counts == sorted(counts)
    # The last one in is held to its worst: 27 * 2 + 6 = 60, and 28 * 2 + 6 is too much.
    assert counts[-1] == 28


def test_the_estimate_falls_slowly_and_rises_at_once():
    admission = Admission(61, COST)
    admission.observe([False] * 8, 1.0)
    assert admitted(admission) == 10
    left(admission)
    for _ in range(100):
        admission.observe([False] * 8, 1.0)
    admission.observe([True] * 4 + [False] * 4, 1.0)
    assert admitted(admission) == 14  # 13 * 4 + 6 = 58
    left(admission)
    admission.observe([True], 1.0)
    assert admitted(admission) == 10


def test_a_rise_closes_the_door_until_the_queue_has_drained():
    admission = Admission(61, COST)
    for _ in range(100):
        admission.observe([False] * 8, 1.0)
    assert admitted(admission) == 28
    admission.observe([True] * 8, 1.0)
    assert admission.outstanding == 28 * 6 <= 3 * 61
    for _ in range(18):
        admission.release()
        assert not admission.admit()
    admission.release()
    assert admission.admit()


def test_who_was_shed_is_told_when_to_come_back():
    admission = Admission(600, COST, workers=2)
    assert admission.retry_after == 1
    admitted(admission)
    assert admission.retry_after == 1
    admission.observe([True] * 8, 4.8)  # 0.1 seconds a pass, of one of two workers
    assert admission.outstanding == 600
    assert admission.retry_after == 30
    admission.observe([False] * 8, 16.0)  # 1 second a pass: 0.55 on average
    assert admission.retry_after == 60


def test_a_budget_that_lets_nobody_in_is_refused():
    with pytest.raises(InputError, match="at least 6 passes, got 5"):
        Admission(5, COST)


def test_the_cost_of_an_artifact(artifact):
    from dataclasses import replace

    metadata = OnnxClassifier(artifact("lab.onnx")).metadata
    assert cost(metadata) == COST
    assert cost(replace(metadata, drift_weights_sha256="0" * 64)) == Cost(passed=4, countered=8)
    assert cost(replace(metadata, config=CounterattackConfig(gate="agreement"))).passed == 3
    # Two views of every picture, and plain CLIP's answer beside them.
    recommended = replace(metadata, config=CounterattackConfig.recommended())
    assert cost(recommended) == Cost(passed=2 + 1, countered=2 + 1)
    assert cost(replace(metadata, config=CounterattackConfig(steps=5))) == Cost(passed=2, countered=12)


def test_what_waits_while_the_workers_are_busy_goes_together():
    batches, go = [], asyncio.Event()

    async def run(items):
        batches.append(items)
        await go.wait()
        return [item * 10 for item in items]

    async def scenario():
        batcher = Batcher(run, size=4, workers=2, seconds=20, late=TimeoutError)
        tasks = []
        for item in range(12):
            tasks.append(asyncio.ensure_future(batcher.submit(item)))
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert batches == [[0], [1]]  # no timer: whoever is free goes
        tasks[3].cancel()
        await asyncio.sleep(0)
        go.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results[:3] + results[4:] == [item * 10 for item in range(12) if item != 3]
        assert batches[2:] == [[2, 4, 5], [6, 7, 8, 9], [10, 11]]

    asyncio.run(scenario())


def test_a_batch_that_fails_fails_alone():
    async def run(items):
        if 1 in items:
            raise RuntimeError("broken")
        return items

    async def scenario():
        batcher = Batcher(run, size=1, workers=1, seconds=20, late=TimeoutError)
        results = await asyncio.gather(*map(batcher.submit, range(3)), return_exceptions=True)
        assert results[0] == 0
        assert isinstance(results[1], RuntimeError)
        assert results[2] == 2

    asyncio.run(scenario())
