"""The readers, each with small true files to begin with."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import safetensors.torch
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image
from torch import nn

from clipfast import ArtifactError, CounterattackConfig, InputError
from clipfast.artifacts.encoder_metadata import EncoderMetadata
from clipfast.artifacts.metadata import Metadata
from clipfast.artifacts.onnx_file import read_onnx
from clipfast.evaluation.results import Results
from clipfast.evaluation.store import Store
from clipfast.models.checkpoint import load_image_tower
from clipfast.preprocess import FORMATS, Preprocess

__all__ = ["TARGETS", "Target"]

_PREPROCESS = Preprocess(size=(16, 16))
_MOST_PIXELS = 10**5
_FOLDER = Path(tempfile.mkdtemp(prefix="fuzzing-"))


class Target(NamedTuple):
    """read: raises for an input nothing but what the reader says. seeds: true files."""

    read: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]


def _pictures(data: bytes) -> None:
    with contextlib.suppress(InputError):
        _PREPROCESS(data, max_pixels=_MOST_PIXELS)


def _picture_files() -> Iterator[bytes]:
    picture = Image.linear_gradient("L").resize((16, 16))
    for form in FORMATS:
        for mode in ("RGB", "L", "P", "RGBA"):
            file = io.BytesIO()
            try:
                picture.convert(mode).save(file, form)
            except (OSError, KeyError, ValueError):
                continue
            yield file.getvalue()


def _metadata(data: bytes) -> None:
    for read in (Metadata.from_json, EncoderMetadata.from_json, Results.from_json):
        with contextlib.suppress(ArtifactError, InputError):
            read(data.decode(errors="replace"))


def _metadata_texts() -> Iterator[bytes]:
    yield json.dumps(
        {
            "schema": 5, "profile": "lab", "static": False, "batch": None, "pixels": "uint8",
            "outputs": ["logits", "drift", "countered"], "width": None, "model_name": "drawn",
            "pretrained": None, "weights_sha256": "0" * 64, "drift_weights_sha256": None,
            "classnames": ["a", "b"], "templates": ["a {}."], "calibrated": False, "calibration": None,
            "config": json.loads(CounterattackConfig().to_json()), "precision": "fp32",
            "preprocess": {
                "size": [32, 32], "interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0,
                "color_order": "RGB", "range": [0, 1],
            },
            "versions": {"clipfast": "0", "torch": "0"}, "limits": "", "license": "MIT",
        }
    ).encode()  # fmt: skip


def _onnx(data: bytes) -> None:
    file = _FOLDER / "a.onnx"
    file.write_bytes(data or b"\0")
    with contextlib.suppress(ArtifactError):
        read_onnx(file)


def _onnx_files() -> Iterator[bytes]:
    tensor = TensorProto(name="a", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="a.data")
    branch = helper.make_graph([], "branch", [], [], initializer=[tensor])
    nodes = [
        helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch),
        helper.make_node("RandomUniform", [], ["z"], shape=[1], seed=1.0),
    ]
    yield helper.make_model(helper.make_graph(nodes, "graph", [], [])).SerializeToString()
    yield onnx.ModelProto().SerializeToString() + b"\x08\x0a"


class _MadeAnewError(Exception):
    """The part was not taken."""


def _parts(data: bytes) -> None:
    def make() -> dict[str, NDArray[Any]]:
        raise _MadeAnewError

    store = Store(_FOLDER / "run", {})
    (store.folder / "parts" / "a.npz").write_bytes(data)
    with contextlib.suppress(_MadeAnewError):
        found = store.get("a", make)
        assert found.keys() == {"right"}, found.keys()


def _part_files() -> Iterator[bytes]:
    Store(_FOLDER / "seeds", {}).get("a", lambda: {"right": np.zeros(3, bool)})
    yield (_FOLDER / "seeds/parts/a.npz").read_bytes()


def _checkpoints(data: bytes) -> None:
    file = _FOLDER / f"a.{'pt' if data[:1] == b'P' else 'safetensors'}"
    file.write_bytes(data)
    with contextlib.suppress(InputError):
        load_image_tower(nn.Linear(2, 2), file)


def _checkpoint_files() -> Iterator[bytes]:
    state = nn.Linear(2, 2).state_dict()
    yield safetensors.torch.save(state)
    for whole in (state, {"state_dict": state}):
        file = io.BytesIO()
        torch.save(whole, file)
        yield file.getvalue()


warnings.simplefilter("ignore")
logging.disable()
TARGETS = {
    "pictures": Target(_pictures, _picture_files),
    "metadata": Target(_metadata, _metadata_texts),
    "onnx": Target(_onnx, _onnx_files),
    "parts": Target(_parts, _part_files),
    "checkpoints": Target(_checkpoints, _checkpoint_files),
}
