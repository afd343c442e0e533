"""For the tests: takes the place of the server's ONNX Runtime backend, which cannot be had as a package.

The server itself is the real one, and loads this by its Python backend. As the real backend does, it refuses
a configuration that is not the graph's, and runs a batch of requests as one.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as server
from backend_tensors import from_tensor, to_tensor

_TYPES = {"tensor(float)": "TYPE_FP32", "tensor(uint8)": "TYPE_UINT8", "tensor(bool)": "TYPE_BOOL"}


class TritonPythonModel:
    """What the server's Python backend calls."""

    def initialize(self, args):
        """Loads a version of the model; raises where its configuration is not the graph's."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"], args["model_version"])
        self.session = onnxruntime.InferenceSession(folder / "model.onnx")
        self.outputs = [node.name for node in self.session.get_outputs()]
        for kind, nodes in (("input", self.session.get_inputs()), ("output", self.session.get_outputs())):
            graph = {node.name: (_TYPES[node.type], node.shape[1:]) for node in nodes}
            said = {io["name"]: (io["data_type"], _dims(io)) for io in config[kind]}
            if graph != said:
                raise server.TritonModelException(f"{kind}s {said} of the config are not the graph's {graph}")
            if any(isinstance(node.shape[0], int) for node in nodes):
                raise server.TritonModelException(f"the graph's {kind}s cannot be batched")

    def execute(self, requests):
        """Answers several requests by one run."""
        batches = [from_tensor(server.get_input_tensor_by_name(one, "pixels")) for one in requests]
        answers = self.session.run(self.outputs, {"pixels": np.concatenate(batches)})
        ends = np.cumsum([len(batch) for batch in batches])[:-1]
        rows = zip(*(np.split(np.asarray(answer), ends) for answer in answers), strict=True)
        return [server.InferenceResponse([*map(to_tensor, self.outputs, answer)]) for answer in rows]


def _dims(io):
    return io["reshape"]["shape"] if "reshape" in io else io["dims"]
