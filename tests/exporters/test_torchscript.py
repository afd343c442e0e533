"""The defence as TorchScript: its answers for every kind of tower, and what the file holds."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from lab import DEPTHS, DRIFT_TOWERS, STAGES, Lab, check_draws, restless, serving_graph, serving_ports
from towers import TRACED, build_vit

from clipfast.exporters import torchscript as to_torchscript


def load(path: Path, files: dict[str, str] | None = None) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the format is deprecated
        return torch.jit.load(path, _extra_files=files)


def write(lab: Lab, folder: Path, metadata: str = "{}") -> Path:
    path = folder / "lab.ts.pt"
    to_torchscript.write(
        lab.graph, lab.examples, metadata, path, inputs=lab.inputs, outputs=lab.outputs, opset=20
    )
    return path


def written(lab: Lab, folder: Path) -> torch.jit.ScriptModule:
    return load(write(lab, folder))


@pytest.fixture(scope="module")
def lab() -> Lab:
    return Lab(build_vit(gain=8.0))


@pytest.fixture(scope="module")
def path(lab, tmp_path_factory) -> Path:
    return write(lab, tmp_path_factory.mktemp("torchscript"), '{"a": "\N{GREEK SMALL LETTER TAU}"}')


@pytest.fixture(scope="module")
def program(path) -> torch.jit.ScriptModule:
    return load(path)


@pytest.mark.parametrize("mix", ["none", "some", "all"])
@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_any_batch_and_gate_in_one_program(lab, program, n, mix):
    if n > 1 or mix != "some":
        lab.check(program, n, mix)


def test_no_images(lab, program):
    outputs = program(*(example[:0] for example in lab.examples))
    assert [tuple(output.shape) for output in outputs] == [(0, 11), (0, 11), (0,), (0,), (0, 3, 32, 32)]


@pytest.mark.parametrize("name", ["resnet", "timm convnext"])
def test_traced_towers(name, tmp_path):
    model = TRACED[name]()
    lab = Lab(restless(model) if name == "resnet" else model, steps=1)
    program = written(lab, tmp_path)
    for n, mix in ((1, "none"), (4, "some"), (3, "all")):
        lab.check(program, n, mix)


@pytest.mark.parametrize("options", DRIFT_TOWERS.values(), ids=DRIFT_TOWERS)
def test_another_tower_measures_drift(tmp_path, options):
    other = build_vit("one block, mean", seed=1, gain=8.0)
    lab = Lab(build_vit("one block", gain=8.0), drift_model=other, **options)
    program = written(lab, tmp_path)
    for mix in ("none", "some", "all"):
        lab.check(program, 4, mix)


@pytest.mark.slow  # the ONNX files of the same graphs are quick
@pytest.mark.parametrize("kind", [*STAGES, *DEPTHS])
def test_other_stages(tmp_path, kind):
    lab = Lab(build_vit(gain=8.0), **(STAGES | DEPTHS)[kind])
    program = written(lab, tmp_path)
    for mix in ("none", "some", "all"):
        lab.check(program, 4, mix)


def test_one_image_whose_shapes_depend_on_no_value(tmp_path):
    lab = Lab(build_vit("one block", gain=8.0), static=True)
    program = written(lab, tmp_path)
    for mix in ("none", "all"):
        lab.check(program, 1, mix)


def test_the_file_holds_its_metadata_and_each_weight_once(lab, path):
    files = {"clipfast.json": ""}
    load(path, files)
    assert files["clipfast.json"].decode() == '{"a": "\N{GREEK SMALL LETTER TAU}"}'
    records = [entry for entry in zipfile.ZipFile(path).infolist() if "/data/" in entry.filename]
    stored = sum(entry.file_size for entry in records if not entry.filename.endswith("data/version"))
    assert 0.98 * lab.nbytes < stored < 1.02 * lab.nbytes


def test_noise_is_drawn_inside(bundled, tmp_path):
    pixels = torch.zeros(5, 3, *bundled.image_size, dtype=torch.uint8)
    path, (inputs, outputs) = tmp_path / "serving.ts.pt", serving_ports(bundled, None)
    to_torchscript.write(
        serving_graph(bundled), (pixels,), "{}", path, inputs=inputs, outputs=outputs, opset=20
    )
    check_draws(load(path), bundled)
