"""One file for the weights of several ONNX files beside it, each kept once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx.external_data_helper import set_external_data

__all__ = ["share_weights"]

_LEAST = 1024  # bytes; smaller tensors stay where they are


def share_weights(files: Sequence[Path], weights: Path) -> None:
    """Moves the large initialisers of ONNX files into `weights`, in the same folder: equal bytes once.

    Nothing else of the files changes; ONNX Runtime finds the weights by the name that they now give.
    """
    places: dict[bytes, int] = {}
    end = 0
    with weights.open("wb") as out:
        for path in files:
            model = onnx.load(path)
            for tensor in model.graph.initializer:
                raw = tensor.raw_data
                if len(raw) < _LEAST:
                    continue
                if raw not in places:
                    places[raw] = end
                    end += out.write(raw)
                set_external_data(tensor, weights.name, offset=places[raw], length=len(raw))
                tensor.ClearField("raw_data")
            path.write_bytes(model.SerializeToString())
