import open_clip
import pytest
import torch
from conftest import CLASSNAMES, make_tiny_clip

from clipfast import InputError
from clipfast.models.class_weights import class_weights

TEMPLATES = ("a photo of a {}", "this is a {}.")


def test_equals_open_clips_own_classifier(tiny_clip, tokenizer):
    expected = open_clip.build_zero_shot_classifier(tiny_clip, tokenizer, CLASSNAMES, TEMPLATES)
    weights = class_weights(tiny_clip, tokenizer, CLASSNAMES, TEMPLATES)
    assert weights.shape == (24, 3)
    torch.testing.assert_close(weights, expected)
    callables = [lambda c: f"a photo of a {c}", lambda c: f"this is a {c}."]
    torch.testing.assert_close(class_weights(tiny_clip, tokenizer, CLASSNAMES, callables), expected)


def test_kept_until_the_weights_change(tokenizer):
    model = make_tiny_clip()
    calls = []

    def counting(texts):
        calls.append(texts)
        return tokenizer(texts)

    first = class_weights(model, counting, CLASSNAMES, TEMPLATES)
    assert class_weights(model, counting, CLASSNAMES, TEMPLATES) is first
    assert len(calls) == 1
    assert not torch.equal(class_weights(model, counting, CLASSNAMES, TEMPLATES[:1]), first)
    model.load_state_dict(make_tiny_clip(seed=4).state_dict())
    assert not torch.equal(class_weights(model, counting, CLASSNAMES, TEMPLATES), first)


def test_training_mode_is_left_as_it_was(tokenizer):
    model = make_tiny_clip().train()
    class_weights(model, tokenizer, CLASSNAMES, TEMPLATES)
    assert model.training


@pytest.mark.parametrize(
    ("classnames", "templates", "named"),
    [
        ((), TEMPLATES, "at least one class name"),
        (("cat", " "), TEMPLATES, "not empty, got ' '"),
        (("cat", 3), TEMPLATES, "got 3"),
        (("cat", "dog", "cat"), TEMPLATES, "more than one of .'cat'"),
        (CLASSNAMES, (), "at least one template"),
        (CLASSNAMES, ("a photo",), "got 'a photo'"),
        (CLASSNAMES, ("a {name}",), "got 'a {name}'"),
        (CLASSNAMES, ("a {} {}",), "got 'a {} {}'"),
        (CLASSNAMES, ("a {",), "got 'a {'"),
        (CLASSNAMES, ("a {.foo}",), "got 'a {.foo}'"),
        (CLASSNAMES, ("a {[x]}",), r"got 'a {\[x\]}'"),
        (CLASSNAMES, (3,), "strings or callables, got 3"),
        (CLASSNAMES, ("a {}", str.upper), "mixed"),
    ],
)
def test_bad_names_and_templates_are_named(tiny_clip, tokenizer, classnames, templates, named):
    with pytest.raises(InputError, match=named):
        class_weights(tiny_clip, tokenizer, classnames, templates)
