"""After a warm-up no call compiles, captures, or meets an operator in a form that it was not met in."""

from __future__ import annotations

import pytest
import torch
from conftest import make_classifier, make_tiny_clip, pixels, split_threshold
from test_engine import Recorded
from torch import Tensor

from clipfast import CounterattackConfig, ops
from clipfast.defence.cuda_graphs import Graphs

OPERATORS = ("perturb", "drift_gate", "cotangent", "ascend", "zero_shot_head")


def kind(value: object) -> object:
    """What a compiled kernel depends on of an argument."""
    return (value.dtype, tuple(value.shape)) if isinstance(value, Tensor) else value


@pytest.fixture
def met(monkeypatch) -> set[object]:
    """Each kind of arguments that an operator has been called with."""
    seen: set[object] = set()

    def watched(name: str):
        operator = getattr(ops, name)

        def call(*args, **kwargs):
            seen.add((name, *map(kind, args), *((key, kind(value)) for key, value in kwargs.items())))
            return operator(*args, **kwargs)

        return call

    for name in OPERATORS:
        monkeypatch.setattr(ops, name, watched(name))
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    return seen


@pytest.mark.parametrize("drift_model", [False, True], ids=["one tower", "drift tower"])
@pytest.mark.parametrize("gate", ["drift", "agreement", "high_noise_drift"])
def test_nothing_is_new_after_a_warmup(tiny_clip, tokenizer, met, gate, drift_model):
    x = pixels(8)
    noise = torch.empty(8, 3, 32, 32).uniform_(-0.01, 0.01)
    options = {"drift_model": make_tiny_clip(seed=3, sensitive=True)} if drift_model else {}
    settings = {"gate": gate, "transform": "low_pass 3"}
    if gate != "drift":
        settings |= {"objective": "towards", "views": ["mirror", "blur"]}
    drift = (
        make_classifier(tiny_clip, tokenizer, config=CounterattackConfig(**settings), **options)
        .predict(x)
        .drift
    )
    config = CounterattackConfig(tau_threshold=split_threshold(drift), **settings)
    classifier = make_classifier(tiny_clip, tokenizer, config=config, compile=True, **options)
    engine = classifier.engine
    engine._graphs = Graphs(Recorded)
    classifier.warmup([8, 3])
    captured, known = Recorded.made, set(met)
    encoders = [encoder for encoder in (engine.encoder, engine.drift_encoder) if encoder is not None]
    compiled = [set(encoder._compiled) for encoder in encoders]
    for n in (8, 3):
        for batch in (x[:n], x[:n].float() / 255):
            for source in ({}, {"seed": 1}, {"noise": noise[:n]}):
                classifier.predict(batch, **source)
    assert met - known == set()
    assert Recorded.made == captured
    assert [set(encoder._compiled) for encoder in encoders] == compiled
