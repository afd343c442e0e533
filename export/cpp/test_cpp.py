"""The C++ program over compiled packages: its answers are those of Python, and no Python runs."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from clipfast import DefendedClassifier
from clipfast.cli import app
from clipfast.config import CounterattackConfig
from clipfast.inputs.arrays import draw_noise
from clipfast.inputs.noise import seeded_keys
from clipfast.preprocess import image_files, look_for_images
from clipfast.runtime import load_artifact

# The first one builds, and each package is minutes of a C++ compiler's work.
pytestmark = pytest.mark.timeout(1800)

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(built) -> Run:
    """Runs the program with nothing in the environment that could lead to a Python."""

    def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [built / "clipfast-classify", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env={}, timeout=300, **options)

    return run


def rows_of(result: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def save_noise(path: Path, n: int, config: CounterattackConfig) -> NDArray[np.float32]:
    """The noise of `clipfast classify --seed 5`, left at a path."""
    noise = draw_noise(seeded_keys(5, 0, n), (n, 3, 96, 96), config)
    np.save(path, noise)
    return noise


def assert_same(got: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Equal fields in one order; numbers up to what the order of sums may change, and a flipped sign."""
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        assert list(ours) == list(theirs)
        for name, value in theirs.items():
            if name == "topk":
                continue
            if isinstance(value, float):
                assert ours[name] == pytest.approx(value, rel=1e-3, abs=1e-6), (theirs["image"], name)
            else:
                assert ours[name] == value, (theirs["image"], name)
        for entry, other in zip(ours["topk"], theirs["topk"], strict=True):
            assert list(entry) == list(other)
            assert entry["class"] == other["class"]
            assert entry["probability"] == pytest.approx(other["probability"], rel=1e-2, abs=1e-6)


# A package takes a compiler a minute and more.
@pytest.mark.parametrize("package", ["lab.pt2", pytest.param("recommended.pt2", marks=pytest.mark.slow)])
def test_answers_are_those_of_the_command_line(run, artifact, pictures, tmp_path, package):
    lab, folders = artifact(package), [pictures / "attacked", pictures / "clean"]
    save_noise(tmp_path / "noise.npy", 48, DefendedClassifier.bundled().config)
    options = ["--artifact", lab, "--trust", "--topk", 3]
    got = rows_of(run(*folders, *options, "--noise", tmp_path / "noise.npy"))
    command = ["classify", *folders, *options, "--seed", 5, "--json"]
    expected = CliRunner().invoke(app, list(map(str, command)), catch_exceptions=False)
    assert expected.exit_code == 0
    assert_same(got, [json.loads(line) for line in expected.stdout.splitlines()])
    # All cases are among them.
    assert {row["changed"] for row in got} == {False, True}
    assert {row["countered"] for row in got} == ({False, True} if package == "lab.pt2" else {False})


def test_how_images_are_batched_changes_nothing(run, artifact, pictures, tmp_path):
    save_noise(tmp_path / "noise.npy", 24, DefendedClassifier.bundled().config)
    options = ["--artifact", artifact("lab.pt2"), "--trust", "--noise", tmp_path / "noise.npy"]
    whole = rows_of(run(pictures / "clean", *options, "--batch-size", 24))
    for size in (1, 7):
        assert_same(rows_of(run(pictures / "clean", *options, "--batch-size", size, "--threads", 1)), whole)


def with_entry(source: Path, out: Path, suffix: str, change: Callable[[bytes], bytes]) -> Path:
    """A copy of a package whose one file with a suffix is changed."""
    changed = 0
    with zipfile.ZipFile(source) as package, zipfile.ZipFile(out, "w") as copy:
        for entry in package.infolist():
            data = package.read(entry)
            if entry.filename.endswith(suffix):
                data, changed = change(data), changed + 1
            copy.writestr(entry.filename, data)
    assert changed == 1
    return out


def with_entries(source: Path, out: Path, change: Callable[[dict[str, str]], object]) -> Path:
    """A copy of a package whose metadata entries are changed in place."""

    def changed(data: bytes) -> bytes:
        entries = json.loads(data)
        change(entries)
        return json.dumps(entries).encode()

    return with_entry(source, out, ".wrapper_metadata.json", changed)


def with_metadata(source: Path, out: Path, **fields: object) -> Path:
    """A copy of a package with other fields in clipfast's metadata."""

    def change(entries: dict[str, str]) -> None:
        entries["clipfast"] = json.dumps(json.loads(entries["clipfast"]) | fields)

    return with_entries(source, out, change)


def test_a_fixed_batch_is_filled_up(run, artifact, pictures, tmp_path):
    save_noise(tmp_path / "noise.npy", 24, DefendedClassifier.bundled().config)
    fixed = with_metadata(artifact("lab.pt2"), tmp_path / "fixed.pt2", batch=5)
    options = ["--trust", "--noise", tmp_path / "noise.npy"]
    expected = rows_of(run(pictures / "clean", "--artifact", artifact("lab.pt2"), *options))
    assert_same(rows_of(run(pictures / "clean", "--artifact", fixed, *options)), expected)


def test_pictures_of_other_kinds_get_pythons_answers(run, artifact, pictures, tmp_path):
    lab, folder = artifact("lab.pt2"), tmp_path / "kinds"
    folder.mkdir()
    large = Image.open(next(image_files([pictures / "clean"]))).resize((331, 217))
    large.save(folder / "large.png")
    large.save(folder / "photo.jpg")
    large.convert("L").save(folder / "grey.png")
    large.quantize(64).save(folder / "palette.png")
    large.putalpha(Image.linear_gradient("L").resize(large.size))
    large.save(folder / "transparent.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    large.convert("RGB").save(folder / "turned.JPEG", exif=exif)
    classifier = load_artifact(lab, trust=True)
    files = list(image_files([folder]))
    noise = save_noise(tmp_path / "noise.npy", len(files), classifier.config)
    got = rows_of(run(folder, "--artifact", lab, "--trust", "--noise", tmp_path / "noise.npy"))
    expected = classifier.predict(classifier.preprocess.batch(files), noise=noise)
    assert [row["image"] for row in got] == list(map(str, files))
    assert len({row["drift"] for row in got}) == len(files)
    np.testing.assert_allclose([row["drift"] for row in got], expected.drift, rtol=1e-4)
    assert [row["class"] for row in got] == [best[0][0] for best in expected.topk(1)]
    assert [row["countered"] for row in got] == expected.countered.tolist()


def test_serving_draws_its_noise_anew(run, artifact, pictures):
    serving = artifact("serving.pt2")
    first, second = (rows_of(run(pictures / "clean", "--artifact", serving, "--trust")) for _ in range(2))
    assert all(a["drift"] != b["drift"] for a, b in zip(first, second, strict=True))
    files = list(image_files([pictures / "clean"]))
    classifier = load_artifact(serving, trust=True)
    expected = classifier.predict(classifier.preprocess.batch(files))
    best = expected.undefended_logits.argmax(axis=1)
    assert [row["undefended_class"] for row in first] == [classifier.classnames[i] for i in best]
    # Of other noise, so only alike: the mean of these ratios has a standard deviation of 0.08.
    assert abs(np.log([row["drift"] for row in first] / expected.drift).mean()) < 0.4


def test_lab_draws_noise_where_none_is_given(run, artifact, pictures):
    options = [pictures / "clean", "--artifact", artifact("lab.pt2"), "--trust"]
    first, second = (rows_of(run(*options)) for _ in range(2))
    assert all(a["drift"] != b["drift"] for a, b in zip(first, second, strict=True))
    assert all(row["drift"] > 1e-3 for row in first)


def test_no_python_at_run_time(built, artifact, pictures):
    program = built / "clipfast-classify"
    libraries = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    assert "libtorch_cpu" in libraries
    assert "libpython" not in libraries
    assert "libtorch_python" not in libraries
    picture = next(image_files([pictures / "clean"]))
    command = [program, picture, "--artifact", artifact("lab.pt2"), "--trust", "--bench"]
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
    assert report["seconds"] > 0
    loaded = {os.path.basename(line.split()[-1]) for line in maps.splitlines()}  # noqa: PTH119
    assert any(name.endswith(".wrapper.so") for name in loaded)
    assert not [name for name in loaded if "python" in name]


def test_nothing_of_a_package_is_run_without_trust(run, artifact, pictures):
    result = run(pictures / "clean", "--artifact", artifact("lab.pt2"))
    assert result.returncode == 2
    assert not result.stdout
    assert "runs its own code when it is loaded; pass --trust" in result.stderr


def test_an_uncalibrated_threshold_is_warned_of(run, artifact, pictures, tmp_path):
    package = with_metadata(artifact("lab.pt2"), tmp_path / "lab.pt2", calibrated=False)
    result = run(pictures / "clean", "--artifact", package, "--trust")
    assert "was not calibrated for this model" in result.stderr
    assert {row["calibrated"] for row in rows_of(result)} == {False}


def broken_packages(lab: Path, folder: Path) -> dict[str, tuple[Path, str]]:
    def package(name: str, data: bytes) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    foreign = folder / "foreign.pt2"
    with zipfile.ZipFile(foreign, "w") as archive:
        archive.writestr("model/readme.txt", "no model")
    return {
        "missing": (folder / "nothing.pt2", "cannot read"),
        "empty": (package("empty.pt2", b""), "expected an exported classifier, got zero bytes"),
        "text": (package("text.pt2", b"no package"), "torch cannot read it as a package"),
        "truncated": (package("cut.pt2", lab.read_bytes()[:100_000]), "torch cannot read it as a package"),
        "foreign": (foreign, "torch cannot read it as a package"),
        "no metadata": (
            with_entries(lab, folder / "bare.pt2", lambda entries: entries.pop("clipfast")),
            "carries no clipfast metadata, so clipfast did not export it",
        ),
        "another device": (
            with_entries(lab, folder / "cuda.pt2", lambda entries: entries.update(AOTI_DEVICE_KEY="cuda")),
            "compiled for cuda, this program runs on the CPU",
        ),
        "newer": (
            with_metadata(lab, folder / "newer.pt2", schema=6),
            "its metadata has schema 6, this program reads up to 5: a newer one is needed",
        ),
        "broken library": (
            with_entry(lab, folder / "library.pt2", ".wrapper.so", lambda _: b"no library"),
            "torch cannot load it",
        ),
        "other outputs": (
            with_metadata(lab, folder / "outputs.pt2", classnames=["a", "b"]),
            "expected logits as float32 [8, 2], got float32 [8, 120]",
        ),
    }


def test_a_package_that_is_not_as_expected_is_named_with_the_reason(run, artifact, pictures, tmp_path):
    for name, (path, reason) in broken_packages(artifact("lab.pt2"), tmp_path).items():
        result = run(pictures / "clean", "--artifact", path, "--trust")
        assert result.returncode == 2, name
        assert not result.stdout, name
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: "), name
        assert str(path) in line, name
        assert reason in line, name


@pytest.mark.parametrize("weights", ["image_tower.model.visual.ln_post.bias", "class_weights"])
def test_a_drift_or_logit_that_is_not_finite_is_never_an_answer(run, artifact, pictures, tmp_path, weights):
    values = attrgetter(weights)(DefendedClassifier.bundled()).detach().numpy()

    def spoilt(library: bytes) -> bytes:
        assert values.tobytes() in library
        return library.replace(values.tobytes(), np.full_like(values, np.nan).tobytes())

    package = with_entry(artifact("lab.pt2"), tmp_path / "spoilt.pt2", ".wrapper.so", spoilt)
    result = run(pictures / "clean", "--artifact", package, "--trust")
    assert result.returncode == 2
    assert not result.stdout
    assert "error: expected a finite drift and logits, got drift" in result.stderr


def test_files_that_cannot_be_read_are_reported_and_the_rest_go_on(run, artifact, pictures, tmp_path):
    good = sorted((pictures / "clean").iterdir())[:3]
    broken, missing = tmp_path / "broken.png", tmp_path / "missing.png"
    broken.write_bytes(good[0].read_bytes()[:2000])
    (tmp_path / "bare").mkdir()
    files = [good[0], broken, missing, good[1], tmp_path / "bare", good[2]]
    save_noise(tmp_path / "noise.npy", 4, DefendedClassifier.bundled().config)
    options = ["--artifact", artifact("lab.pt2"), "--trust", "--noise", tmp_path / "noise.npy"]
    result = run(*files, *options, "--batch-size", 2)
    assert result.returncode == 1
    got = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["image"] for row in got] == list(map(str, good))
    for line in (
        f"skipped {broken}: broken or truncated image",
        f"skipped no such file or folder: {missing}",
        f"skipped expected image files in the folder {tmp_path / 'bare'}, found none",
        "3 of 6 inputs could not be read",
    ):
        assert line in result.stderr
    # A row of the noise belongs to a file, whatever becomes of the files before it.
    noise = np.load(tmp_path / "noise.npy")
    np.save(tmp_path / "noise.npy", noise[[0, 2, 3]])
    assert_same(got, rows_of(run(*good, *options)))


def test_folders_are_searched_as_python_does(run, artifact, tmp_path):
    folder = tmp_path / "pictures"
    for name in ("b/a.png", "b/.hidden.PNG", "a.webp", "B.jpeg", "b.gif", "a b.Jpg", "notes.txt", "png"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(b"no picture")
    Image.init()
    for suffix in Image.registered_extensions():
        (folder / f"every{suffix}").write_bytes(b"no picture")
    result = run(folder, "--artifact", artifact("lab.pt2"), "--trust")
    assert result.returncode == 1
    skipped = [line.removeprefix("skipped ") for line in result.stderr.splitlines()[:-1]]
    reason = ": not an image that this program reads (PNG, JPEG)"
    found = look_for_images(folder)
    named = [*map(str, found.files), *(str(error).partition(": ")[0] for error in found.left_out)]
    assert skipped == [f"{name}{reason}" for name in sorted(named, key=Path)]


def npy(shape: bytes) -> bytes:
    """The second version of numpy.save's form, with a header as long as it likes."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + b", }"
    return b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header


def test_noise_is_checked(run, artifact, pictures, tmp_path):
    lab, path = artifact("lab.pt2"), tmp_path / "noise.npy"
    good = np.zeros((24, 3, 96, 96), np.float32)
    cases: list[tuple[bytes | NDArray[Any], str]] = [
        (b"no array", "expected an array that numpy.save wrote"),
        (good.astype(np.float64), "expected little-endian float32 in C order, got the header"),
        (good[:23], "expected noise for 24 images, got 23"),
        (good[:, :, :48], "expected noise of the pixels' shape [8, 3, 96, 96], got [8, 3, 48, 96]"),
        (good + 0.1, "expected noise within eps = 0.0156863 (linf), got 0.1"),
        (good * np.nan, "expected noise within eps = 0.0156863 (linf), got nan"),
        (npy(b"(" + b"1, " * 20_000 + b")"), "an array, got a truncated file"),
        (npy(b"(" + b"9" * 60_000 + b",)"), "an array, got a truncated file"),
        (npy(b"(" + b" " * 60_000 + b"x)"), "a shape of numbers, got "),
        (npy(b"(0, 3, 96, 96)"), "expected noise for 24 images, got 0"),
        (npy(b"(0, 3, 96, 96)") + b"\0", "an array and nothing behind it"),
    ]
    for noise, reason in cases:
        path.write_bytes(noise) if isinstance(noise, bytes) else np.save(path, noise)
        result = run(pictures / "clean", "--artifact", lab, "--trust", "--noise", path)
        assert result.returncode == 2
        assert not result.stdout
        assert reason in result.stderr
    np.save(path, good)
    path.write_bytes(path.read_bytes()[:-4])
    result = run(pictures / "clean", "--artifact", lab, "--trust", "--noise", path)
    assert "got a truncated file" in result.stderr
    np.save(path, good)
    result = run(pictures / "clean", "--artifact", artifact("serving.pt2"), "--trust", "--noise", path)
    assert result.returncode == 2
    assert "noise needs a file exported with --profile lab" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["x.png"], ["--artifact", "a.pt2"], ["x.png", "--artifact", "a", "--topk", "0"], ["--what"]]
)
def test_usage_errors_are_named(run, arguments):
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
