import os
import shutil
import signal
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import find
from processes import session, started, wait_for

from clipfast.errors import InputError
from clipfast.files import UNFINISHED
from clipfast.runtime import OnnxClassifier

WORKER = "ray::MapWorker(MapBatches(Classify))"


@pytest.fixture
def batch(artifact, noise_key, scratch, tmp_path):
    """A function that starts the command with two workers, and gives its process."""

    def start(images, *arguments, size=8):
        options = ["--artifact", artifact("lab.onnx"), "--noise-key", noise_key, "--workers", 2]
        command = [images, *options, "--out", tmp_path / "out", "--batch", size, *arguments]
        return started("batch.py", *command, scratch=scratch)

    return start


@pytest.fixture
def log(scratch):
    return lambda: (scratch / "batch.py.log").read_text()


@pytest.fixture
def results(tmp_path):
    return lambda: pq.read_table(tmp_path / "out").to_pylist()


def test_a_folder_with_unreadable_pictures_in_it(batch, log, results, drawn, files, expected, same, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(drawn, folder)
    (folder / "more" / "text.png").write_text("no picture")
    (folder / "cut.jpg").write_bytes(files[0].read_bytes()[:500])
    (folder / "notes.txt").write_text("not meant")
    with batch(folder) as process:
        assert process.wait(200) == 1, log()
    rows = results()
    names = [str(file.relative_to(drawn)) for file in files]
    assert [row["key"] for row in rows] == sorted([*names, "more/text.png", "cut.jpg"])
    found = {row["key"]: row for row in rows}
    for file, name in zip(files, names, strict=True):
        same(found[name], expected[file])
        assert found[name]["error"] is None
    for name, reason in (("more/text.png", "not an image"), ("cut.jpg", "broken or truncated")):
        row = found[name]
        assert reason in row.pop("error")
        assert set(row.values()) == {name, None}
    assert "classifying" in log()
    assert f"{len(rows)} images" in log()
    assert "2 without an answer" in log()


@pytest.mark.slow
def test_the_recommended_settings(artifact, noise_key, scratch, log, results, drawn, files, tmp_path):
    file = artifact("recommended-lab.onnx")
    options = ["--artifact", file, "--noise-key", noise_key, "--workers", 2, "--batch", 8]
    with started("batch.py", drawn, *options, "--out", tmp_path / "out", scratch=scratch) as process:
        assert process.wait(200) == 0, log()
    classifier = OnnxClassifier(file)
    prediction = classifier.predict(classifier.preprocess.batch(files), seed=0)
    found = {row["key"]: row for row in results()}
    for picture, [(label, probability)] in zip(files, prediction.topk(1), strict=True):
        row = found[str(picture.relative_to(drawn))]
        assert (row["label"], row["countered"]) == (label, False)
        assert row["probability"] == pytest.approx(probability, abs=1e-4)


def test_parquet_of_encoded_pictures(batch, log, results, files, expected, same, tmp_path):
    table = pa.table(
        {
            "id": [*range(len(files)), 1000, 1001],
            "png": pa.array([*(file.read_bytes() for file in files), b"no picture", None], pa.binary()),
            "other": ["unused"] * (len(files) + 2),
        }
    )
    folder = tmp_path / "in"
    folder.mkdir()
    pq.write_table(table[:30], folder / "0.parquet")
    pq.write_table(table[30:], folder / "1.parquet")
    with batch(folder, "--column", "png", "--key", "id") as process:
        assert process.wait(200) == 1, log()
    rows = {row["key"]: row for row in results()}
    assert sorted(rows) == table["id"].to_pylist()
    for index, file in enumerate(files):
        same(rows[index], expected[file])
    assert "not an image" in rows[1000]["error"]
    assert "NoneType" in rows[1001]["error"]
    assert "2 without an answer" in log()


def test_a_worker_killed_in_the_middle_loses_no_picture(batch, log, results, files, expected, same, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    source = {}
    for copy in range(12):
        for index, file in enumerate(files):
            name = f"{copy:02d}-{index:02d}.png"
            os.link(file, folder / name)
            source[name] = file

    def written() -> bool:
        return any(file.stat().st_size > 1000 for file in (tmp_path / "out").glob(f"*{UNFINISHED}"))

    with batch(folder) as process:
        wait_for(written, "the first results")
        before = session(process.pid, WORKER)
        assert len(before) == 2, log()
        os.kill(before[0], signal.SIGKILL)
        wait_for(lambda: before[0] not in session(process.pid), "the worker to die")
        assert process.poll() is None
        wait_for(lambda: set(session(process.pid, WORKER)) - set(before), "a worker in its place")
        assert process.wait(200) == 0, log()
    rows = results()
    assert Counter(row["key"] for row in rows) == Counter(list(source))
    for row in rows:
        same(row, expected[source[row["key"]]])


def test_only_pictures_or_parquet_of_encoded_pictures_are_taken(files, tmp_path):
    def refused(name, *content, said):
        folder = tmp_path / name
        folder.mkdir()
        for one in content:
            if isinstance(one, pa.Table):
                pq.write_table(one, folder / "0.parquet")
            else:
                shutil.copy(one, folder)
        with pytest.raises(InputError, match=said):
            find(folder, column="image", key="key")

    image = pa.array([files[0].read_bytes()], pa.binary())
    table = pa.table({"key": ["a"], "image": image})
    refused("nothing", said="expected image files in the folder")
    refused("both", table, files[0], said="expected pictures or Parquet")
    refused("columns", table.rename_columns(["key", "other"]), said="columns 'key' and 'image' .* got")
    paths = pa.table({"key": ["a"], "image": ["/etc/passwd"]})
    refused("text", paths, said=r"encoded pictures \(binary\) in column 'image', got string")
    refused("empty", table[:0], said="found no row")
    (tmp_path / "broken.parquet").write_text("no Parquet")
    with pytest.raises(InputError, match=r"cannot read .*broken\.parquet as Parquet"):
        find(tmp_path / "broken.parquet", column="image", key="key")


@pytest.mark.parametrize(
    ("option", "said"),
    [("--artifact", "expected an ONNX file"), ("--noise-key", "cannot read the noise key")],
)
def test_a_bad_artifact_or_key_is_named_before_ray_starts(batch, log, drawn, tmp_path, option, said):
    (tmp_path / "bad").mkdir()
    path = tmp_path / "bad"
    if option == "--artifact":
        path = tmp_path / "bad" / "a.onnx"
        path.write_text("no ONNX")
    with batch(drawn, option, path) as process:
        assert process.wait(60) == 2
    text = " ".join(log().split())
    assert said in text
    assert "Traceback" not in text
    assert "Started a local Ray" not in text
    assert not (tmp_path / "out").exists()
