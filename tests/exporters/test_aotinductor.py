"""The defence compiled by AOTInductor: its answers, and what the package holds."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lab import DRAWS, Lab, check_draws, restless, serving_graph, serving_ports
from torch._inductor import aoti_load_package, config
from torch._inductor.runtime.cache_dir_utils import cache_dir
from torch.export.pt2_archive._package import AOTICompiledModel
from towers import TRACED, VIT, build

from clipfast.exporters import aotinductor as to_aotinductor

# Each file takes a C++ compiler a minute.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

METADATA = '{"a": "\N{GREEK SMALL LETTER TAU} \\n"}'


MODELS = {"explicit": lambda: restless(build(**VIT | {"layers": 2})), "traced": TRACED["timm convnext"]}


@pytest.fixture(scope="module", params=list(MODELS))
def lab(request) -> Lab:
    return Lab(MODELS[request.param]())


@pytest.fixture(scope="module")
def path(lab, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("aotinductor") / "lab.pt2"
    to_aotinductor.write(
        lab.graph, lab.examples, METADATA, path, inputs=lab.inputs, outputs=lab.outputs, opset=20
    )
    return path


@pytest.fixture(scope="module")
def program(path) -> Iterator[AOTICompiledModel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AOTI_RUNTIME_CHECK_INPUTS", "1")  # and the layouts that it was compiled for
        yield aoti_load_package(path)


@pytest.mark.parametrize("mix", ["none", "some", "all"])
@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_any_batch_and_gate_in_one_program(lab, program, n, mix):
    if n > 1 or mix != "some":
        lab.check(program, n, mix)


def library_of(path: Path) -> bytes:
    with zipfile.ZipFile(path) as package:
        (name,) = (name for name in package.namelist() if name.endswith(".so"))
        assert not [name for name in package.namelist() if name.endswith((".cpp", ".o", ".bin"))]
        return package.read(name)


def test_the_package_holds_its_metadata_and_each_weight_once(lab, path, program):
    assert program.get_metadata()["clipfast"] == METADATA
    library = library_of(path)
    weights = [*lab.tower.model.visual.parameters(), lab.class_weights]
    # A row stands for its weight; those of one that normalisation is folded into are not there as they are.
    found = [library.count(w[len(w) // 2].numpy().tobytes()) for w in weights if w.numel() >= 256]
    assert max(found) == 1
    assert sum(found) > len(found) / 2


def test_it_needs_no_operators_of_clipfast(path):
    assert b"clipfast" not in library_of(path)


def libraries() -> set[Path]:
    return set(Path(cache_dir()).rglob("*.so"))


def test_a_fixed_batch_that_draws_its_noise_leaves_nothing_else(classifier, tmp_path):
    before = config.save_config(), torch.is_grad_enabled(), libraries()
    pixels = torch.zeros(DRAWS, 3, *classifier.image_size, dtype=torch.uint8)
    path = tmp_path / "serving.pt2"
    inputs, outputs = serving_ports(classifier, DRAWS)
    to_aotinductor.write(
        serving_graph(classifier), (pixels,), METADATA, path, inputs=inputs, outputs=outputs, opset=20
    )
    assert (config.save_config(), torch.is_grad_enabled(), libraries()) == before
    assert list(tmp_path.iterdir()) == [path]
    check_draws(aoti_load_package(path), classifier)
