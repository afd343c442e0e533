"""Hand-made exported files: a classifier of mean colour whose drift is its noise's mean size over eps."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from clipfast.artifacts.fields import KEY
from clipfast.artifacts.metadata import Metadata
from clipfast.artifacts.ports import usual_outputs
from clipfast.config import CounterattackConfig
from clipfast.preprocess import Preprocess

SHA256 = "0123456789abcdef" * 4
CONFIG = CounterattackConfig(tau_threshold=0.5, pass_through="clean").calibrated(SHA256)
WEIGHTS = 20 * np.array([[1, -1, 0, 0.5], [0, 1, -1, 0.5], [-1, 0, 1, 0.5]], np.float32)  # [3, C]

_TYPES = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "bool": TensorProto.BOOL}


def make_metadata(**changes) -> Metadata:
    return Metadata(
        **{
            "profile": "lab",
            "static": False,
            "batch": None,
            "pixels": "float32",
            "outputs": usual_outputs(changes.get("profile", "lab")),
            "width": None,
            "model_name": "tiny",
            "pretrained": None,
            "weights_sha256": SHA256,
            "drift_weights_sha256": None,
            "classnames": ("red", "green", "blue", "grey"),
            "templates": ("a {}.",),
            "config": CONFIG,
            "calibrated": True,
            "calibration": {"clean_countered": 0.5},
            "preprocess": Preprocess(size=(32, 32)),
            "precision": "fp32",
            "versions": {"clipfast": "0", "torch": "0"},
            "license": "Apache-2.0",
            **changes,
        }
    )


@dataclass
class Answer:
    logits: np.ndarray
    undefended_logits: np.ndarray
    drift: np.ndarray
    countered: np.ndarray


def expected(pixels, noise, tau_threshold=CONFIG.tau_threshold, config=CONFIG) -> Answer:
    """What the hand-made classifier answers for float pixels under this noise."""
    drift = np.abs(noise).mean(axis=(1, 2, 3)) / config.eps
    countered = drift < tau_threshold
    undefended = pixels.mean(axis=(2, 3)) @ WEIGHTS
    moved = (pixels + 20 * noise).mean(axis=(2, 3)) @ WEIGHTS
    return Answer(np.where(countered[:, None], moved, undefended), undefended, drift, countered)


def make_onnx(metadata: Metadata, *, said: str | None = None, weights=WEIGHTS) -> onnx.ModelProto:
    """The classifier that these metadata describe; said: the metadata text to carry instead, "" for none."""
    inputs, outputs = metadata.ports
    taken = {port.name for port in inputs}
    config = metadata.config
    constants = {
        "sides": np.array([2, 3]),
        "all": np.array([1, 2, 3]),
        "column": np.array([1]),
        "weights": np.ascontiguousarray(weights[:, : len(metadata.classnames)]),
        "eps": np.float32(config.eps),
        "twenty": np.float32(20),
    }
    nodes = []

    def add(operator, arguments, output, **attributes):
        nodes.append(helper.make_node(operator, arguments, [output], **attributes))

    if metadata.pixels == "uint8":
        constants["byte"] = np.float32(255)
        add("Cast", ["pixels"], "levels", to=TensorProto.FLOAT)
        add("Div", ["levels", "byte"], "x")
    else:
        add("Identity", ["pixels"], "x")
    if "noise" not in taken:
        add("RandomUniformLike", ["x"], "noise", low=-config.eps, high=config.eps, dtype=TensorProto.FLOAT)
    if "tau_threshold" not in taken:
        constants["tau_threshold"] = np.float32(config.tau_threshold)
    add("Abs", ["noise"], "sizes")
    add("ReduceMean", ["sizes", "all"], "mean_size", keepdims=0)
    add("Div", ["mean_size", "eps"], "drift")
    add("Less", ["drift", "tau_threshold"], "countered")
    add("ReduceMean", ["x", "sides"], "colour", keepdims=0)
    add("MatMul", ["colour", "weights"], "undefended_logits")
    add("Mul", ["noise", "twenty"], "push")
    add("Add", ["x", "push"], "moved")
    add("ReduceMean", ["moved", "sides"], "moved_colour", keepdims=0)
    add("MatMul", ["moved_colour", "weights"], "moved_logits")
    add("Unsqueeze", ["countered", "column"], "rows")
    add("Where", ["rows", "moved_logits", "undefended_logits"], "logits")
    if metadata.profile == "lab":
        add("Identity", ["noise"], "delta")

    def infos(ports):
        return [
            helper.make_tensor_value_info(
                port.name, _TYPES[port.dtype], ["N" if size is None else size for size in port.shape]
            )
            for port in ports
        ]

    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "classifier", infos(inputs), infos(outputs), tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    text = metadata.to_json() if said is None else said
    if text:
        helper.set_model_props(model, {KEY: text})
    return model


def write_onnx(path, metadata: Metadata, **options):
    path.write_bytes(make_onnx(metadata, **options).SerializeToString())
    return path


class Program(torch.nn.Module):
    """The classifier of the profile lab as a torch module, for the formats that torch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.from_numpy(WEIGHTS))
        self.eps = CONFIG.eps

    def forward(self, pixels: torch.Tensor, noise: torch.Tensor, tau_threshold: torch.Tensor):
        drift = noise.abs().mean(dim=(1, 2, 3)) / self.eps
        countered = drift < tau_threshold
        undefended = pixels.mean(dim=(2, 3)) @ self.weights
        moved = (pixels + 20 * noise).mean(dim=(2, 3)) @ self.weights
        return torch.where(countered[:, None], moved, undefended), undefended, drift, countered, noise.clone()


def write_torchscript(path, said: str):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*torch\.jit\.\w+.* is deprecated")
        torch.jit.save(torch.jit.script(Program()), path, _extra_files={f"{KEY}.json": said} if said else {})
    return path


def write_aotinductor(path, said: str):
    # Three tensors: one given twice would be exported as one input.
    example = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32), torch.rand(2)
    any_batch = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(Program(), example, dynamic_shapes=(any_batch,) * 3)
    settings = {"aot_inductor.metadata": {KEY: said} if said else {}}
    torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=settings)
    return path
