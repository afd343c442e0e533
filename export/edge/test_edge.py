"""The edge program: its answers are those of the command line, and nothing but what is shipped is loaded."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from clipfast.artifacts.fields import KEY
from clipfast.cli import app
from clipfast.inputs.arrays import draw_noise
from clipfast.inputs.noise import seeded_keys
from clipfast.runtime import OpenVinoClassifier

pytestmark = pytest.mark.timeout(900)

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(shipped, tmp_path) -> Run:
    """Runs the program as it is shipped, with nothing in the environment that could lead elsewhere."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [shipped / "clipfast-edge", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env={}, timeout=300, cwd=tmp_path)

    return run


def rows_of(result: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("file", ["lab.onnx", "recommended-lab.onnx"])
def test_answers_are_those_of_the_command_line(run, artifact, pictures, tmp_path, file):
    classifier = OpenVinoClassifier(artifact(file))
    np.save(tmp_path / "noise.npy", draw_noise(seeded_keys(5, 0, 48), (48, 3, 96, 96), classifier.config))
    options = [pictures / "attacked", pictures / "clean", "--artifact", artifact(file), "--topk", 3]
    got = rows_of(run(*options, "--noise", tmp_path / "noise.npy"))
    for runtime in ("openvino", "onnxruntime"):
        command = ["classify", *options, "--runtime", runtime, "--seed", 5, "--json"]
        answered = CliRunner().invoke(app, list(map(str, command)), catch_exceptions=False)
        expected = [json.loads(line) for line in answered.stdout.splitlines()]
        assert len(got) == len(expected) == 48
        for ours, theirs in zip(got, expected, strict=True):
            assert list(ours) == list(theirs)
            for name in ("image", "class", "countered", "changed", "undefended_class", "calibrated"):
                assert ours[name] == theirs[name], (theirs["image"], name)
            assert ours["drift"] == pytest.approx(theirs["drift"], rel=1e-3)
            # A flipped sign may move a countered picture's logits.
            assert ours["probability"] == pytest.approx(theirs["probability"], rel=2e-2)
    assert {row["countered"] for row in got} == ({False, True} if file == "lab.onnx" else {False})


def test_a_serving_file_of_bytes_draws_its_noise_anew(run, artifact, pictures):
    first, second = (
        rows_of(run(pictures / "clean", "--artifact", artifact("serving.onnx"))) for _ in range(2)
    )
    assert all(a["drift"] != b["drift"] for a, b in zip(first, second, strict=True))
    assert [row["undefended_class"] for row in first] == [row["undefended_class"] for row in second]


def test_what_is_shipped_is_all_that_is_loaded(shipped, artifact, pictures):
    command = [shipped / "clipfast-edge", pictures / "clean", "--artifact", artifact("lab.onnx"), "--bench"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={}
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            report = json.loads(process.stdout.readline())
            maps = Path(f"/proc/{process.pid}/maps").read_text()
        finally:
            process.kill()
    assert list(report) == ["seconds", "countered"]
    loaded = {Path(line.split()[-1]) for line in maps.splitlines() if ".so" in line}
    system = (
        "ld-linux",
        "libc.so",
        "libm.so",
        "libdl.so",
        "libpthread.so",
        "librt.so",
        "libgcc_s.so",
        "libstdc++.so",
    )
    foreign = {path for path in loaded if path.parent != shipped and not path.name.startswith(system)}
    assert foreign == set()
    assert sum(file.stat().st_size for file in shipped.iterdir()) < 95e6


def with_metadata(source: Path, out: Path, change: Callable[[dict[str, Any]], object] | None) -> Path:
    """A copy of a file whose metadata are changed, or with None taken away."""
    model = onnx.load(source)
    (entry,) = model.metadata_props
    assert entry.key == KEY
    if change is None:
        del model.metadata_props[:]
    else:
        metadata = json.loads(entry.value)
        change(metadata)
        entry.value = json.dumps(metadata)
    onnx.save(model, out)
    return out


def test_a_file_that_is_not_as_expected_is_named_with_the_reason(run, artifact, pictures, tmp_path):
    lab = artifact("lab.onnx")

    def file(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    broken = [
        (tmp_path / "nothing.onnx", "cannot read"),
        (file("empty.onnx", b""), "expected an exported classifier, got zero bytes"),
        (file("text.onnx", b"no model"), "openvino cannot read it"),
        (file("cut.onnx", lab.read_bytes()[:100_000]), "openvino cannot read it"),
        (with_metadata(lab, tmp_path / "bare.onnx", None), "carries no clipfast metadata"),
        (
            with_metadata(lab, tmp_path / "newer.onnx", lambda said: said.update(schema=6)),
            "its metadata has schema 6, this program reads up to 5: a newer one is needed",
        ),
        (
            with_metadata(lab, tmp_path / "names.onnx", lambda said: said.update(classnames=["a", "b"])),
            "expected logits as float32 [8, 2], got float32 [8, 120]",
        ),
    ]
    for path, reason in broken:
        result = run(pictures / "clean", "--artifact", path)
        assert result.returncode == 2, path
        assert not result.stdout, path
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: "), path
        assert str(path) in line, path
        assert reason in line, path


def test_noise_of_the_operating_system_is_used_where_none_is_given(run, artifact, pictures):
    first, second = (rows_of(run(pictures / "clean", "--artifact", artifact("lab.onnx"))) for _ in range(2))
    assert all(a["drift"] != b["drift"] for a, b in zip(first, second, strict=True))


def test_threads_change_no_answer(run, artifact, pictures, tmp_path):
    noise: NDArray[np.float32] = np.zeros((24, 3, 96, 96), np.float32)
    np.save(tmp_path / "noise.npy", noise)
    options = [pictures / "clean", "--artifact", artifact("lab.onnx"), "--noise", tmp_path / "noise.npy"]
    one, two = (rows_of(run(*options, "--threads", threads)) for threads in (1, 2))
    assert [row["class"] for row in one] == [row["class"] for row in two]
    np.testing.assert_allclose(
        [row["probability"] for row in one], [row["probability"] for row in two], rtol=1e-3
    )
