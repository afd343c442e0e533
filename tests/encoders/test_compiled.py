from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch
from towers import make_tower, smooth

from clipfast.encoders import CompiledEncoder, make_encoder


def test_first_calls_at_once_compile_once(monkeypatch):
    made = []

    def compile(function, **_):
        made.append(function.__name__)
        time.sleep(0.2)  # long enough for the others to come
        return function

    monkeypatch.setattr(torch, "compile", compile)
    tower = make_tower()
    encoder = CompiledEncoder(make_encoder(tower))
    base = encoder.eager.project(encoder.to_layout(smooth(2, tower.image_size)))
    gate = Barrier(4)

    def call(_):
        gate.wait()
        return encoder.embed(base)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(call, range(4)))
    assert made == ["embed_2"]
    assert all(torch.equal(answer, answers[0]) for answer in answers)
