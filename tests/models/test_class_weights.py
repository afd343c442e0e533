import warnings

import open_clip
import pytest
import torch
import torch.nn.functional as F
from conftest import CLASSNAMES, make_tiny_clip

from clipfast import InputError
from clipfast.models.class_weights import class_weights, null_embedding

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


def test_the_null_prompt_is_every_template_without_a_name(tiny_clip, tokenizer):
    each = F.normalize(tiny_clip.encode_text(tokenizer(["a photo of a ", "this is a ."])), dim=1)
    null = null_embedding(tiny_clip, tokenizer, TEMPLATES)
    assert null.shape == (24,)
    torch.testing.assert_close(null, F.normalize(each.sum(dim=0), dim=0).detach())
    tiny_clip.load_state_dict(make_tiny_clip(seed=4).state_dict())
    assert not torch.equal(null_embedding(tiny_clip, tokenizer, TEMPLATES), null)
    with pytest.raises(InputError, match="got 'a photo'"):
        null_embedding(tiny_clip, tokenizer, ("a photo",))


def test_what_inference_mode_made_can_be_differentiated_through(tiny_clip, tokenizer):
    with torch.inference_mode():
        weights = class_weights(tiny_clip, tokenizer, CLASSNAMES, TEMPLATES)
        null = null_embedding(tiny_clip, tokenizer, TEMPLATES)
    leaf = torch.ones(24, requires_grad=True)
    ((leaf @ weights).sum() + leaf @ null).backward()
    torch.testing.assert_close(leaf.grad, weights.sum(dim=1) + null)


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
        (("cat", "dog", "cat"), TEMPLATES, "distinct class names, got 'cat' and 'cat'"),
        (("cat", "dog", "dog\u200b"), TEMPLATES, r"got 'dog' and 'dog.u200b', which look alike"),
        (("cat", "red  dog", " red dog"), TEMPLATES, "got 'red  dog' and ' red dog', which look alike"),
        (("e\u0301", "\xe9"), TEMPLATES, "which look alike"),
        (("cat", "\x1b[2Jdog"), TEMPLATES, r"without control characters, got '.x1b.2Jdog'"),
        (("cat", "dog\u202e"), TEMPLATES, "without control characters"),
        (("cat", "dog\ncat"), TEMPLATES, "without control characters"),
        (CLASSNAMES, ("a {:>1000000000}",), "where the class name goes"),
        (CLASSNAMES, ("a {!r}",), "where the class name goes"),
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


def test_names_that_begin_alike_and_are_cut_are_told(tiny_clip, tokenizer):
    long = "a photo of this cat is a photo of a dog"

    def cutting(texts):
        return tokenizer([" ".join(text.split()[:9]) for text in texts])

    with pytest.warns(UserWarning, match=f"reads '{long}' and '{long} red' alike: 10 tokens of a prompt"):
        class_weights(tiny_clip, cutting, ("cat", long, f"{long} red"), ("{}", "a {}"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        class_weights(tiny_clip, cutting, ("cat", "dog", "red cat"), ("{}", "a {}"))
