"""Parts that are made once, whole or not at all, and folders that belong to one evaluation."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from clipfast import InputError
from clipfast.evaluation.store import Store, check_same, digest

IDENTITY = {"model": "m", "seed": 0, "eps": (1, 2)}


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "run", IDENTITY)


def make() -> dict[str, np.ndarray]:
    return {"a": np.arange(3.0), "b": np.array([True, False])}


def fail() -> dict[str, np.ndarray]:
    raise AssertionError("made again")


def test_a_part_is_made_once(store):
    made = store.get("key", make)
    read = store.get("key", fail)
    assert list(read) == ["a", "b"]
    for name, array in made.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype


def test_a_part_that_failed_leaves_nothing(store):
    with pytest.raises(AssertionError, match="made again"):
        store.get("key", fail)
    assert not store.has("key")
    assert list((store.folder / "parts").iterdir()) == []


@pytest.mark.parametrize("left", [b"", b"PK\x03\x04 cut off", None])
def test_a_part_that_cannot_be_read_is_made_anew(store, left):
    store.get("key", make)
    path = store.folder / "parts" / "key.npz"
    path.write_bytes(path.read_bytes()[:-40] if left is None else left)
    np.testing.assert_array_equal(store.get("key", make)["a"], np.arange(3.0))
    assert store.get("key", fail)


def test_the_same_run_opens_its_folder_again(store):
    store.get("key", make)
    assert Store(store.folder, {**IDENTITY, "eps": [1, 2]}).has("key")


def test_a_folder_of_another_run_is_refused_and_left_alone(store):
    before = (store.folder / "run.json").read_text()
    with pytest.raises(InputError, match="is another run's: it differs in model, seed;"):
        Store(store.folder, {**IDENTITY, "model": "other", "seed": 1})
    assert (store.folder / "run.json").read_text() == before


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_run_file_is_refused(store, content):
    (store.folder / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"cannot read .*run\.json|is another run's: it differs in"):
        Store(store.folder, IDENTITY)


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(InputError, match="expected a new or empty folder, or an evaluation's"):
        Store(tmp_path, IDENTITY)
    assert [file.name for file in tmp_path.iterdir()] == ["photo.png"]


def test_what_a_killed_run_left_unfinished_is_in_nobodys_way(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (".run.json.part", ".run.json.0123456789abcdef.part"):
        (folder / name).write_text("{")
    store = Store(folder, IDENTITY)
    (folder / "parts" / ".key.npz.0123456789abcdef.part").write_bytes(b"PK")
    assert not store.has("key")
    np.testing.assert_array_equal(store.get("key", make)["a"], np.arange(3.0))
    assert Store(tmp_path / "other", IDENTITY).take_from([folder]) == 1


def test_a_run_that_another_overtakes_while_it_starts(tmp_path, monkeypatch):
    read = Path.read_text

    def overtaken(self: Path, **options) -> str:
        try:
            return read(self, **options)
        except FileNotFoundError:
            monkeypatch.undo()
            Store(tmp_path / "run", IDENTITY).get("key", make)
            raise

    monkeypatch.setattr(Path, "read_text", overtaken)
    assert Store(tmp_path / "run", IDENTITY).has("key")


def test_runs_at_once_share_a_folder(tmp_path):
    runs = 8
    start = Barrier(runs)

    def run(_: int) -> list[dict[str, np.ndarray]]:
        start.wait()
        store = Store(tmp_path / "run", IDENTITY)
        return [store.get(f"key {i}", make) for i in range(10)]

    with ThreadPoolExecutor(runs) as pool:
        found = list(pool.map(run, range(runs)))
    for part in [part for parts in found for part in parts]:
        np.testing.assert_array_equal(part["a"], np.arange(3.0))
    names = [file.name for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert sorted(names) == sorted(["run.json", *(f"key {i}.npz" for i in range(10))])


def test_runs_at_once_all_make_a_broken_part_anew(store, monkeypatch):
    path = store.folder / "parts" / "key.npz"
    path.write_bytes(b"PK")
    unlink = Path.unlink

    def overtaken(self: Path, **options) -> None:
        if self == path:
            unlink(self)
        unlink(self, **options)

    monkeypatch.setattr(Path, "unlink", overtaken)
    assert list(store.get("key", make)) == ["a", "b"]


def test_parts_of_other_folders_are_taken_over(store, tmp_path):
    other = Store(tmp_path / "other", IDENTITY)
    store.get("both", make)
    for key in ("both", "theirs"):
        other.get(key, make)
    check_same(other.folder, IDENTITY)
    assert store.take_from([other.folder]) == 1
    assert store.get("theirs", fail)
    with pytest.raises(InputError, match=r"expected the folder of an evaluation, got .*gone"):
        check_same(tmp_path / "gone", IDENTITY)
    strange = Store(tmp_path / "strange", {**IDENTITY, "seed": 1})
    with pytest.raises(InputError, match="differs in seed"):
        check_same(strange.folder, IDENTITY)


def test_digests_tell_descriptions_and_arrays_apart():
    zeros = np.zeros(4, np.float32)
    different = [
        digest({"a": 1}),
        digest({"a": 2}),
        digest({"a": 1}, zeros),
        digest({"a": 1}, zeros.reshape(2, 2)),
        digest({"a": 1}, zeros.astype(np.float64)[:2]),
        digest({"a": 1}, zeros, zeros),
        digest({"a": 1}, np.array([0, 0, 0, 1e-20], np.float32)),
    ]
    assert len(set(different)) == len(different)
    assert digest({"a": 1, "b": 2}, zeros[::2]) == digest({"b": 2, "a": 1}, zeros[:2])


def test_every_flipped_bit_of_a_part_is_found(store):
    """And the part made anew: some are errors of all kinds to numpy, and some it does not see."""
    arrays = {"right": np.arange(6) % 2 == 0, "steps": np.arange(4, dtype=np.int64)}
    store.get("key", lambda: arrays)
    path = next((store.folder / "parts").iterdir())
    whole = path.read_bytes()
    made = []

    def make():
        made.append(1)
        return arrays

    # Each in the archive's table, which has no checksum of its own, and some before it.
    bits = 8 * len(whole)
    for at in (*range(0, bits, 7), *range(bits - 8 * (len(whole) - whole.index(b"PK\1\2")), bits)):
        damaged = bytearray(whole)
        damaged[at // 8] ^= 1 << at % 8
        path.write_bytes(damaged)
        found = store.get("key", make)
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
    assert len(made) > len(whole) / 2


def test_a_folder_that_another_process_writes_to_is_left_alone(tmp_path):
    first = Store(tmp_path / "run", IDENTITY, alone=True)
    with pytest.raises(
        InputError, match=r"another evaluation is writing to .*run: wait for it, or give another"
    ):
        Store(tmp_path / "run", IDENTITY, alone=True)
    Store(tmp_path / "run", IDENTITY)  # a shard of a search
    del first
    Store(tmp_path / "run", IDENTITY, alone=True)
