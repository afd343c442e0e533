from __future__ import annotations

import open_clip
import pytest
import torch
from conftest import CLASSNAMES, make_tiny_clip
from safetensors.torch import save_file

from clipfast import DefendedClassifier, InputError, UncalibratedWarning
from clipfast.models.loading import load_open_clip

pytestmark = pytest.mark.usefixtures("registered")


def test_random_weights_and_a_local_file(tmp_path):
    torch.manual_seed(1)
    source, tokenizer = load_open_clip("tiny-test", None)
    assert tokenizer(["a cat"]).shape == (1, 77)
    assert not source.training
    save_file(source.state_dict(), tmp_path / "tiny.safetensors")
    torch.save(source.state_dict(), tmp_path / "tiny.pt")
    for name in ("tiny.safetensors", "tiny.pt"):
        for path in (tmp_path / name, str(tmp_path / name)):
            loaded, _ = load_open_clip("tiny-test", path)
            x = torch.rand(2, 3, 32, 32)
            assert torch.equal(loaded.encode_image(x), source.encode_image(x))


@pytest.mark.parametrize(
    ("name", "pretrained", "named"),
    [
        ("ViT-B32", None, "unknown model 'ViT-B32'; did you mean 'ViT-B-32'"),
        ("ViT-B-32-quickgelu", "openia", "no weights 'openia'; did you mean 'openai'.*metaclip_400m"),
        (
            "ViT-B-32",
            "openai",
            "trained with QuickGELU, but 'ViT-B-32' is built with GELU.*'ViT-B-32-quickgelu'",
        ),
        ("tiny-test", "gone.safetensors", "no such checkpoint: gone.safetensors"),
        ("tiny-test", "laion2b", "has no weights 'laion2b'; it has: none"),
        ("hf-hub:org/model", "openai", "brings its own weights"),
        ("drawn", "openai", "brings its own weights"),
        ("local-dir:/nowhere", None, "could not load 'local-dir:/nowhere'"),
    ],
)
def test_mistakes_are_named(name, pretrained, named):
    with pytest.raises(InputError, match=named):
        load_open_clip(name, pretrained)


def test_weights_of_another_shape_are_named(tmp_path):
    save_file(make_tiny_clip().state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="does not fit the model"):
        load_open_clip("tiny-test", tmp_path / "other.safetensors")


def test_classifier_from_open_clip_and_from_finetuned(tmp_path):
    torch.manual_seed(1)
    original, _ = load_open_clip("tiny-test", None)
    save_file(original.state_dict(), tmp_path / "original.safetensors")
    torch.manual_seed(2)
    tuned, _ = load_open_clip("tiny-test", None)
    torch.save({"vision_encoder_state_dict": tuned.visual.state_dict()}, tmp_path / "tecoa.pt")
    with pytest.warns(UncalibratedWarning):
        plain = DefendedClassifier.from_open_clip("tiny-test", tmp_path / "original.safetensors", CLASSNAMES)
    with pytest.warns(UncalibratedWarning):
        defended = DefendedClassifier.from_finetuned(
            "tiny-test", tmp_path / "original.safetensors", tmp_path / "tecoa.pt", CLASSNAMES
        )
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(defended.class_weights, plain.class_weights)
    torch.testing.assert_close(defended.predict(x, seed=0).drift, plain.predict(x, seed=0).drift)
    mean, std = (
        torch.tensor(v)[:, None, None] for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    expected = (
        tuned.encode_image((x - mean) / std, normalize=True) @ plain.class_weights * defended.logit_scale
    )
    torch.testing.assert_close(defended.undefended(x), expected)


def test_published_threshold_counts_for_openai_b32_only(monkeypatch, recwarn):
    model = make_tiny_clip()
    from conftest import WORDS

    from clipfast import classifier as module
    from clipfast.models.tokenizer import WordTokenizer

    pair = model, WordTokenizer(WORDS, context_length=10)
    monkeypatch.setattr(module, "load_open_clip", lambda *_, **__: pair)
    assert DefendedClassifier.from_open_clip("ViT-B-32-quickgelu", "openai", CLASSNAMES).calibrated
    assert not recwarn
    with pytest.warns(UncalibratedWarning):
        assert not DefendedClassifier.from_open_clip("ViT-B-16-quickgelu", "openai", CLASSNAMES).calibrated
