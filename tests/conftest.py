from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from sharing import made_once
from torch import nn

from clipfast import CounterattackConfig, DefendedClassifier, UncalibratedWarning, cli
from clipfast.exporters import Export, export
from clipfast.models.shapes import draw
from clipfast.models.tokenizer import WordTokenizer

WORDS = ("a", "photo", "of", "this", "is", "cat", "dog", "red", "panda", "picture")
CLASSNAMES = ("cat", "dog", "red panda")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def pytest_fixture_setup(fixturedef: pytest.FixtureDef) -> None:
    # A test's own fixtures follow `_seeded`; what tests share must not depend on which of them asks first.
    if fixturedef.scope != "function":
        torch.manual_seed(0)


def make_tiny_clip(seed: int = 0, *, sensitive: bool = False) -> nn.Module:
    """A random ViT CLIP of 32 px. `sensitive`: it sees no patch's mean, and drifts under noise."""
    torch.manual_seed(seed)
    model = open_clip.CLIP(
        embed_dim=24,
        vision_cfg=open_clip.CLIPVisionCfg(layers=2, width=64, head_width=32, patch_size=8, image_size=32),
        text_cfg=open_clip.CLIPTextCfg(
            context_length=10, vocab_size=len(WORDS) + 2, width=32, heads=2, layers=1
        ),
    )
    with torch.no_grad():
        if sensitive:
            weight = model.visual.conv1.weight
            weight.sub_(weight.mean(dim=(2, 3), keepdim=True)).mul_(8)
    open_clip.model.set_model_preprocess_cfg(
        model, {"size": 32, "mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    )
    return model.eval()


@pytest.fixture
def tokenizer() -> WordTokenizer:
    return WordTokenizer(WORDS, context_length=10)


@pytest.fixture
def tiny_clip() -> nn.Module:
    return make_tiny_clip(sensitive=True)


def make_classifier(model: nn.Module, tokenizer: WordTokenizer, **options) -> DefendedClassifier:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UncalibratedWarning)
        return DefendedClassifier(model, tokenizer, CLASSNAMES, **options)


@pytest.fixture
def classifier(tiny_clip: nn.Module, tokenizer: WordTokenizer) -> DefendedClassifier:
    return make_classifier(tiny_clip, tokenizer)


def split_threshold(drift: torch.Tensor) -> float:
    """A threshold between two images' drifts, so that the gate splits the batch."""
    ordered = drift.sort().values
    middle = len(ordered) // 2
    return ((ordered[middle - 1] + ordered[middle]) / 2).item()


def pixels(n: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(draw(n, seed=seed, size=size).pixels)


def linf_draw(x: torch.Tensor, config: CounterattackConfig, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(x.shape, dtype=x.dtype).uniform_(-config.eps, config.eps, generator=generator)


REGISTERED = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """Two tiny architectures in open_clip's registry, which needs whole models otherwise."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "tiny-test.json").write_text(json.dumps(REGISTERED))
    (folder / "tiny-test-quickgelu.json").write_text(json.dumps({**REGISTERED, "quick_gelu": True}))
    known = dict(open_clip.factory._MODEL_CONFIGS)
    open_clip.add_model_config(folder)
    yield
    open_clip.factory._MODEL_CONFIGS.clear()
    open_clip.factory._MODEL_CONFIGS.update(known)


@pytest.fixture(scope="session")
def bundled() -> DefendedClassifier:
    return DefendedClassifier.bundled(preset="published")


@pytest.fixture(scope="session")
def twin() -> DefendedClassifier:
    return DefendedClassifier.bundled(preset="published", finetuned=True)


# The bundled model's files that tests share; an export takes some ten seconds.
EXPORTED: dict[str, dict[str, Any]] = {
    "lab": {"profile": "lab"},
    "serving": {"profile": "serving"},
    "static": {"profile": "serving", "static": True, "pixels": "uint8"},
    "fp16": {"profile": "lab", "precision": "fp16", "static": True, "opset": 21},
}


@pytest.fixture(scope="session")
def exported(bundled, tmp_path_factory) -> Callable[[str], Export]:
    def get(kind: str) -> Export:
        def make(folder: Path) -> None:
            with torch.random.fork_rng():
                made = export(bundled, folder / f"{kind}.onnx", verify=False, **EXPORTED[kind])
            (folder / "export.pickle").write_bytes(pickle.dumps(made))

        folder = made_once(tmp_path_factory, f"exported-{kind}", make)
        return pickle.loads((folder / "export.pickle").read_bytes())

    return get


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command line: exit code, standard output and standard error."""

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["clipfast", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        captured = capsys.readouterr()
        return exit.value.code or 0, captured.out, captured.err

    return call
