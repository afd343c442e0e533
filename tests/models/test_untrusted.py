"""What a model's folder may not have done."""

from __future__ import annotations

import json

import open_clip
import pytest
from huggingface_hub import constants

from clipfast import InputError
from clipfast.models.bundled import bundled_folder
from clipfast.models.loading import load_open_clip
from clipfast.models.untrusted import offline


@pytest.fixture
def folder(tmp_path):
    """A function that makes the folder of a model whose tokenizer is the hub's, with these options."""
    drawn = bundled_folder("drawn")

    def make(**kwargs):
        config = json.loads((drawn / "open_clip_config.json").read_text())
        config["model_cfg"]["text_cfg"] |= {"hf_tokenizer_name": "tokenizer", "tokenizer_kwargs": kwargs}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
        name = "open_clip_model.safetensors"
        (tmp_path / name).write_bytes((drawn / name).read_bytes())
        return tmp_path

    return make


@pytest.mark.parametrize("kwargs", [{"trust_remote_code": True}, {"deeper": [{"trust_remote_code": 1}]}])
def test_no_code_that_comes_with_a_model_is_run(folder, kwargs, monkeypatch):
    asked = []
    monkeypatch.setattr(open_clip.factory, "HFTokenizer", lambda *_, **options: asked.append(options))
    path = folder(**kwargs)
    refused = pytest.raises(InputError, match="asks for trust_remote_code; clipfast runs no code")
    with refused:
        load_open_clip(f"local-dir:{path}", None)
    monkeypatch.setattr(
        open_clip.pretrained,
        "download_pretrained_from_hf",
        lambda *_, **__: str(path / "open_clip_config.json"),
    )
    with refused:
        load_open_clip("hf-hub:org/model", None)
    assert asked == []
    load_open_clip(f"local-dir:{folder(clean='whitespace', trust_remote_code=False)}", None)
    assert asked == [{**asked[0], "trust_remote_code": False}]


def test_offline_is_what_was_stored(tmp_path, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_: pytest.fail("something was downloaded"))
    url = "https://example.org/weights.pt"
    with offline():
        assert constants.HF_HUB_OFFLINE
        with pytest.raises(FileNotFoundError, match="was not downloaded before"):
            open_clip.pretrained.download_pretrained({"url": url}, cache_dir=str(tmp_path))
        (tmp_path / "weights.pt").write_bytes(b"weights")
        stored = open_clip.pretrained.download_pretrained({"url": url}, cache_dir=str(tmp_path))
        assert stored == str(tmp_path / "weights.pt")
    assert not constants.HF_HUB_OFFLINE
