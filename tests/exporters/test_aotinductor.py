"""The defence compiled by AOTInductor: its answers, and what the package holds. Compiling takes minutes."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from lab import Lab, check_draws, serving_graph
from torch._inductor import aoti_load_package, config
from torch._inductor.runtime.cache_dir_utils import cache_dir
from towers import TRACED, build_vit

from clipfast.exporters import to_aotinductor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

MODELS = {"explicit": lambda: build_vit(gain=8.0), "traced": TRACED["timm convnext"]}


def libraries() -> set[Path]:
    return set(Path(cache_dir()).rglob("*.so"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("aotinductor")


@pytest.fixture(scope="module", params=list(MODELS))
def compiled(request, folder):
    """A lab, and the program of its file: any batch, any of it countered."""
    lab, path = Lab(MODELS[request.param]()), folder / f"{request.param}.pt2"
    to_aotinductor.write(lab.graph, lab.examples, '{"a": "\N{GREEK SMALL LETTER TAU}"}', path, batch=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AOTI_RUNTIME_CHECK_INPUTS", "1")  # and the layouts that were compiled for
        yield lab, aoti_load_package(path), path


@pytest.mark.parametrize("mix", ["none", "some", "all"])
@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_any_batch_and_gate_in_one_program(compiled, n, mix):
    lab, program, _ = compiled
    if n > 1 or mix != "some":
        lab.check(program, n, mix)


def test_the_package_holds_its_metadata_and_each_weight_once(compiled):
    lab, program, path = compiled
    assert program.get_metadata()["clipfast"] == '{"a": "\N{GREEK SMALL LETTER TAU}"}'
    with zipfile.ZipFile(path) as package:
        print({entry.filename: entry.file_size for entry in package.infolist()}, lab.nbytes)


def test_any_process_can_load_it_and_nothing_else_is_left(compiled):
    _, _, path = compiled
    with zipfile.ZipFile(path) as package:
        code = [package.read(name).decode() for name in package.namelist() if name.endswith(".cpp")]
    assert code
    print([("clipfast" in text, "proxy_executor" in text) for text in code])


def test_a_fixed_batch_draws_its_noise(bundled, tmp_path):
    before = config.save_config(), torch.is_grad_enabled(), libraries()
    pixels = torch.zeros(128, 3, *bundled.image_size, dtype=torch.uint8)
    to_aotinductor.write(serving_graph(bundled), (pixels,), "{}", tmp_path / "serving.pt2", batch=128)
    assert (config.save_config(), torch.is_grad_enabled(), libraries()) == before
    assert [file.name for file in tmp_path.iterdir()] == ["serving.pt2"]
    check_draws(aoti_load_package(tmp_path / "serving.pt2"), bundled)
