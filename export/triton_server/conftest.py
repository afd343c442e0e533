"""A model repository and NVIDIA's inference server over it, which all tests here share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hand_made import make_metadata, write_onnx
from inference_server import InferenceServer
from model_config import Serving, describe_version, from_text, to_text
from repository import CONFIG, write_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A hand-made serving artifact: its undefended logits are those of `hand_made.expected`."""
    return write_onnx(tmp_path_factory.mktemp("tiny") / "tiny.onnx", make_metadata(profile="serving"))


@pytest.fixture(scope="session")
def model_repository(tmp_path_factory, artifact, tiny) -> Path:
    """The models `clipfast` and `recommended` (bundled), `tiny`, and some that a client must refuse.

    `recommended` and `tiny` take files, too. `foreign` says nothing of clipfast, `mixed` says that it has
    five classes.
    """
    repository = tmp_path_factory.mktemp("served") / "models"
    write_model(artifact("serving.onnx"), repository)
    write_model(artifact("recommended.onnx"), repository, name="recommended", files=True)
    write_model(
        tiny, repository, name="tiny", serving=Serving(max_batch_size=8, max_queue_delay=300_000), files=True
    )
    five = make_metadata(profile="serving", classnames=("red", "green", "blue", "grey", "pink"))
    for name in ("foreign", "mixed"):
        write_model(tiny, repository, name=name)
        file = repository / name / CONFIG
        config = from_text(file.read_text(), name)
        config.ClearField("parameters")
        if name == "mixed":
            describe_version(config, 1, five)
        file.write_text(to_text(config))
    return repository


@pytest.fixture(scope="session")
def server(tmp_path_factory, model_repository) -> Iterator[InferenceServer]:
    """NVIDIA's server over `model_repository`."""
    with InferenceServer(model_repository, tmp_path_factory.mktemp("server")) as started:
        yield started
