"""A gate held open and held shut."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from conftest import make_classifier, make_tiny_clip, pixels

from clipfast import CounterattackConfig
from clipfast.calibration.gauge import Gauge
from clipfast.models.fingerprint import fingerprint

CONFIG = CounterattackConfig(eps=32 / 255, step_size=8 / 255, steps=3, pass_through="noise")


@pytest.mark.parametrize("branch", ["undefended", "passed", "countered"])
def test_each_branch_is_judged_by_its_own_answer(tiny_clip, tokenizer, branch):
    x = pixels(24)
    options = {"undefended": {}, "passed": {"tau_threshold": 0.0}, "countered": {"tau_threshold": 1e9}}
    answers = {}
    for name, changes in options.items():
        config = CounterattackConfig(**{**vars(CONFIG), **changes})
        prediction = make_classifier(tiny_clip, tokenizer, config=config).predict(x, seed=2, first_image=5)
        logits = prediction.undefended_logits if name == "undefended" else prediction.logits
        answers[name] = logits.argmax(1)
    gauge = Gauge(make_classifier(tiny_clip, tokenizer, config=CONFIG))
    measured = gauge(x, answers[branch], seed=2, first_image=5)
    for name, flags in measured.right._asdict().items():
        assert flags.tolist() == (answers[name] == answers[branch]).tolist()
        assert flags.all() == (name == branch)


def test_without_labels_drift_alone_is_measured(classifier):
    x = pixels(5)
    gauge = Gauge(classifier)
    measured = gauge(x, seed=1, first_image=3)
    assert measured.right is None
    assert measured.drift.dtype == np.float32
    torch.testing.assert_close(
        torch.from_numpy(measured.drift), classifier.predict(x, seed=1, first_image=3).drift
    )
    assert not np.allclose(measured.drift, gauge(x, seed=1).drift, rtol=1e-3)


def test_tokens_are_measured_beside_the_embeddings(tiny_clip, tokenizer):
    whole = CounterattackConfig(gate="agreement", pass_through="both")
    early = dataclasses.replace(whole, gate_depth=1, early_threshold=0.5)
    x, labels = pixels(6), torch.zeros(6, dtype=torch.int64)
    measured = Gauge(make_classifier(tiny_clip, tokenizer, config=early))(x, labels, seed=1)
    expected = Gauge(make_classifier(tiny_clip, tokenizer, config=whole))(x, labels, seed=1)
    np.testing.assert_array_equal(measured.drift, expected.drift)
    np.testing.assert_array_equal(np.stack(measured.right), np.stack(expected.right))
    tokens = dataclasses.replace(early, early_threshold=None, pass_through="clean")
    read = make_classifier(tiny_clip, tokenizer, config=tokens).predict(x).drift
    np.testing.assert_array_equal(measured.tokens, read.numpy())
    assert expected.tokens is None


def test_the_tower_that_measures_is_named(tiny_clip, tokenizer):
    other = make_tiny_clip(seed=4)
    assert make_classifier(tiny_clip, tokenizer).drift_weights == fingerprint(tiny_clip.visual)
    tuned = make_classifier(tiny_clip, tokenizer, drift_model=other)
    assert tuned.drift_weights == fingerprint(other.visual)
