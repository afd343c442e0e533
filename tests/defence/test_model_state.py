"""What a classifier made from its weights does not outlive them."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from conftest import CLASSNAMES, make_classifier, make_tiny_clip, pixels

from clipfast import CounterattackConfig, DefendedClassifier, InputError, UncalibratedWarning


@pytest.fixture
def x():
    return pixels(4).float() / 255


def fresh(model, tokenizer, **options) -> DefendedClassifier:
    return make_classifier(copy.deepcopy(model), tokenizer, **options)


def change_in_place(classifier: DefendedClassifier) -> None:
    with torch.no_grad():
        classifier.image_tower.model.visual.proj.mul_(-1)


def load_through_the_tower(classifier: DefendedClassifier) -> None:
    classifier.image_tower.load_state_dict(other_image_tower(classifier))


def assign_through_the_tower(classifier: DefendedClassifier) -> None:
    classifier.image_tower.load_state_dict(other_image_tower(classifier), assign=True)


def load_into_a_sibling(classifier: DefendedClassifier) -> None:
    sibling = classifier.with_config(CounterattackConfig(tau_threshold=0))
    state = other_image_tower(classifier)
    sibling.load_state_dict({f"image_tower.{name}": value for name, value in state.items()})


def replace_a_module(classifier: DefendedClassifier) -> None:
    blocks = classifier.image_tower.model.visual.transformer.resblocks
    blocks[0] = copy.deepcopy(blocks[1])


def other_image_tower(classifier: DefendedClassifier) -> dict[str, torch.Tensor]:
    other = make_tiny_clip(seed=9, sensitive=True).visual.state_dict()
    state = {f"model.visual.{name}": value for name, value in other.items()}
    return {**classifier.image_tower.state_dict(), **state}


CHANGES = [
    change_in_place,
    load_through_the_tower,
    assign_through_the_tower,
    load_into_a_sibling,
    replace_a_module,
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.filterwarnings("ignore::clipfast.UncalibratedWarning")
def test_answers_are_those_of_the_weights_as_they_are(classifier, tokenizer, x, change):
    before = classifier.predict(x, seed=1)
    sibling = classifier.with_config(CounterattackConfig(tau_threshold=1e9))
    sibling.predict(x, seed=1)
    change(classifier)
    new = fresh(classifier.image_tower.model, tokenizer)
    for ours, theirs in (
        (classifier, new),
        (sibling, new.with_config(sibling.config)),
    ):
        got, expected = ours.predict(x, seed=1), theirs.predict(x, seed=1)
        torch.testing.assert_close(got.logits, expected.logits, rtol=0, atol=1e-3)
        torch.testing.assert_close(got.undefended_logits, expected.undefended_logits, rtol=0, atol=1e-3)
        attackable = ours.differentiable("undefended")(x)
        torch.testing.assert_close(attackable, expected.undefended_logits, rtol=0, atol=1e-3)
    assert (classifier.predict(x, seed=1).logits - before.logits).abs().max() > 0.1


@pytest.mark.filterwarnings("ignore::clipfast.UncalibratedWarning")
def test_the_head_follows_the_text_tower_and_the_scale(classifier, tokenizer, x):
    sibling = classifier.with_config(CounterattackConfig(tau_threshold=0))
    logits, before = classifier.undefended(x), classifier.class_weights
    model = classifier.image_tower.model
    with torch.no_grad():
        model.text_projection.mul_(torch.rand_like(model.text_projection))
        model.logit_scale.sub_(1)
    expected = fresh(model, tokenizer)
    for ours in (classifier, sibling):
        torch.testing.assert_close(ours.class_weights, expected.class_weights, rtol=0, atol=1e-6)
        assert torch.equal(ours.logit_scale, expected.logit_scale)
        torch.testing.assert_close(ours.undefended(x), expected.undefended(x), rtol=0, atol=1e-3)
        assert torch.equal(
            ours.differentiable("unrolled").head(torch.ones(1, 24)),
            expected._head(torch.ones(1, 24), "naive"),
        )
    assert (before - classifier.class_weights).abs().max() > 0.01
    assert (logits - classifier.undefended(x)).abs().max() > 0.1


def test_class_weights_are_not_made_anew_for_another_image_tower(classifier, x):
    before = classifier.class_weights
    change_in_place(classifier)
    classifier.predict(x)
    assert classifier.class_weights is before


@pytest.mark.parametrize("change", CHANGES)
def test_a_mark_of_calibration_does_not_outlive_the_weights(tiny_clip, tokenizer, x, change):
    marked = CounterattackConfig().calibrated(fresh(tiny_clip, tokenizer).drift_weights)
    classifier = make_classifier(tiny_clip, tokenizer, config=marked)
    assert classifier.predict(x).calibrated
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UncalibratedWarning)
        change(classifier)
    with pytest.warns(UncalibratedWarning, match="was not calibrated for this model"):
        prediction = classifier.predict(x)
    assert not prediction.calibrated
    assert not classifier.calibrated


def test_a_name_does_not_outlive_the_weights_that_it_names(bundled):
    classifier = copy.deepcopy(bundled)
    assert classifier.source == ("drawn", None)
    classifier.to("cpu")
    assert classifier.source == ("drawn", None)
    change_in_place(classifier)
    with pytest.warns(UncalibratedWarning):
        source = classifier.source
    assert source is None
    assert copy.deepcopy(classifier).source is None


def test_a_move_is_no_change(classifier, x, monkeypatch):
    classifier.predict(x)
    monkeypatch.setattr(
        "clipfast.defence.model_state.class_weights", lambda *_: pytest.fail("class weights made anew")
    )
    before = classifier.predict(x, seed=2)
    classifier.to("cpu")
    assert torch.equal(classifier.predict(x, seed=2).logits, before.logits)
    meta = copy.deepcopy(classifier)
    meta._state.moved(lambda tensor: tensor.to("meta"))
    assert meta._state.head.class_weights.is_meta


def test_weights_that_are_not_float32_are_refused(classifier, x):
    state = {name: value.half() for name, value in classifier.image_tower.state_dict().items()}
    classifier.image_tower.load_state_dict(state, assign=True)
    with pytest.raises(InputError, match=r"expected a float32 model, got parameters of \['torch.float16'\]"):
        classifier.predict(x)


@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))], ids=["copy", "pickle"]
)
@pytest.mark.filterwarnings("ignore::clipfast.UncalibratedWarning")
def test_a_copy_follows_its_own_weights(classifier, x, how):
    logits = classifier.predict(x, seed=1).logits
    twin = how(classifier)
    change_in_place(twin)
    assert not torch.equal(twin.predict(x, seed=1).logits, logits)
    assert torch.equal(classifier.predict(x, seed=1).logits, logits)
    assert twin.classnames == CLASSNAMES
