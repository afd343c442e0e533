"""Decodes picture files on NVIDIA's inference server: as clipfast reads them, on its Python backend.

`repository.py` writes it into a model of its own. The server's Python needs clipfast, without its extras.
"""

from __future__ import annotations

import json

import numpy as np
import triton_python_backend_utils as server
from backend_tensors import from_tensor, to_tensor

from clipfast.errors import InputError
from clipfast.inputs.arrays import as_unit
from clipfast.preprocess import Preprocess


class TritonPythonModel:
    """What the server's Python backend calls."""

    def initialize(self, args):
        """Reads how pictures are prepared from the model's configuration."""
        config = json.loads(args["model_config"])
        settings = json.loads(config["parameters"]["preprocess"]["string_value"])
        self.preprocess = Preprocess(**settings | {"size": tuple(settings["size"])})
        (output,) = config["output"]
        self.takes_bytes = output["data_type"] == "TYPE_UINT8"

    def execute(self, requests):
        """One picture [1, 3, H, W] for each request, or an error for a file that is none."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        file = from_tensor(server.get_input_tensor_by_name(request, "file"))
        try:
            pixels = self.preprocess.batch([np.asarray(file, np.uint8).tobytes()])
        except InputError as error:
            return server.InferenceResponse(
                error=server.TritonError(str(error), server.TritonError.INVALID_ARG)
            )
        return server.InferenceResponse(
            [to_tensor("pixels", pixels if self.takes_bytes else as_unit(pixels))]
        )
