"""Files that are there whole or not at all, whoever else writes beside them."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from bundled_models.packing import pack

from clipfast import InputError
from clipfast.files import UNFINISHED, move_into_place, write_text, written_aside


@pytest.fixture
def path(tmp_path) -> Path:
    """A file that stands already, alone in its folder."""
    path = tmp_path / "a.json"
    path.write_text("older")
    return path


@contextlib.contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """As on a full disk, writing beyond the size fails."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_text_is_utf_8_with_its_own_line_ends(tmp_path):
    write_text(tmp_path / "a.csv", "≤ é\r\nb\n")
    assert (tmp_path / "a.csv").read_bytes() == "≤ é\r\nb\n".encode()
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_what_stood_there_is_untouched_until_the_end(path):
    with written_aside(path) as file:
        file.write(b"newer")
        file.flush()
        assert path.read_text() == "older"
    assert path.read_text() == "newer"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("length", [5_000, 100_000], ids=["seen at the end", "seen in the middle"])
def test_a_disk_that_fills_up_leaves_what_stood_there(path, length):
    with no_file_above(4096), pytest.raises(InputError, match=r"cannot write .*a\.json: File too large"):
        write_text(path, "newer" * (length // 5))
    assert path.read_text() == "older"
    assert list(path.parent.iterdir()) == [path]


def test_an_interruption_in_the_middle_leaves_what_stood_there(path):
    def interrupted() -> None:
        with written_aside(path) as file:
            file.write(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "older"
    assert list(path.parent.iterdir()) == [path]


def test_a_process_killed_in_the_middle_is_in_nobodys_way(path):
    killed = (
        "import os, pathlib, sys; from clipfast.files import written_aside\n"
        "with written_aside(pathlib.Path(sys.argv[1])) as file:\n"
        "    file.write(b'ne'); file.flush(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", killed, path], check=False).returncode == 9
    [left] = set(path.parent.iterdir()) - {path}
    assert (path.read_text(), left.suffix) == ("older", UNFINISHED)
    write_text(path, "newer")
    assert path.read_text() == "newer"
    assert left.read_bytes() == b"ne", "it may be another process's, which still runs"


def test_a_folder_in_the_way_is_named(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*a\.json"):
        write_text(tmp_path / "a.json", "text")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(InputError, match="No such file or directory"):
        write_text(tmp_path / "gone" / "a.json", "text")


def test_two_writers_of_one_file_do_not_meet(path):
    with written_aside(path) as one:
        with written_aside(path) as other:
            one.write(b"one")
            other.write(b"the other")
        assert path.read_text() == "the other"
    assert path.read_text() == "one"
    assert list(path.parent.iterdir()) == [path]


def test_writers_at_once_leave_one_whole_file(path):
    texts = [str(digit) * 100_000 for digit in range(8)]
    start = Barrier(len(texts))

    def write(text: str) -> None:
        start.wait()
        for _ in range(5):
            write_text(path, text)

    with ThreadPoolExecutor(len(texts)) as pool:
        list(pool.map(write, texts))
    assert path.read_text() in texts
    assert list(path.parent.iterdir()) == [path]


def test_a_link_planted_beside_is_not_followed(path, tmp_path_factory):
    victim = tmp_path_factory.mktemp("elsewhere") / "victim"
    victim.write_text("precious")
    link = path.parent / ".a.json.part"
    link.symlink_to(victim)
    write_text(path, "newer")
    assert (path.read_text(), path.is_symlink()) == ("newer", False)
    assert (victim.read_text(), link.is_symlink()) == ("precious", True)


@pytest.mark.parametrize("exists", [True, False], ids=["a link to a file", "a dangling link"])
def test_a_link_under_the_very_name_is_an_error(path, tmp_path_factory, monkeypatch, exists):
    victim = tmp_path_factory.mktemp("elsewhere") / "victim"
    if exists:
        victim.write_text("precious")
    monkeypatch.setattr(secrets, "token_hex", lambda _: "guessed")
    link = path.parent / f".a.json.guessed{UNFINISHED}"
    link.symlink_to(victim)
    with pytest.raises(InputError, match=r"cannot write .*a\.json: File exists"):
        write_text(path, "newer")
    assert path.read_text() == "older"
    assert link.is_symlink(), "it is not ours to remove"
    assert (victim.exists(), not exists or victim.read_text() == "precious") == (exists, True)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
@pytest.mark.parametrize("mask", [0o022, 0o027, 0o002])
def test_a_file_has_the_mode_of_any_new_one(path, mask):
    before = os.umask(mask)
    try:
        write_text(path, "newer")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_a_long_name_can_be_written_too(tmp_path):
    path = tmp_path / ("é" * 120 + ".json")  # 245 bytes of at most 255
    write_text(path, "text")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", ["written_aside", "move_into_place"])
def test_a_file_is_on_the_disk_before_its_name(path, monkeypatch, write):
    events = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        kind = os.fstat(descriptor)
        events.append("folder" if stat.S_ISDIR(kind.st_mode) else f"file of {kind.st_size} bytes")
        fsync(descriptor)

    def noted_replace(self: Path, target: Path) -> Path:
        events.append("renamed")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    if write == "written_aside":
        with written_aside(path) as file:
            file.write(b"newer")
    else:
        (path.parent / "made").write_text("newer")
        move_into_place(path.parent / "made", path)
    assert events == ["file of 5 bytes", "renamed", "folder"]
    assert path.read_text() == "newer"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_cannot_be_synchronised_is_no_error(path, monkeypatch):
    fsync = os.fsync

    def refused(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refused)
    write_text(path, "newer")
    assert path.read_text() == "newer"


def test_weights_that_could_not_be_written_are_no_finished_stage_of_training(tmp_path, tiny_clip, tokenizer):
    with no_file_above(20_000), pytest.raises(OSError, match="File too large"):
        pack(tiny_clip, tmp_path, model_cfg={}, classnames=("cat",), tokenizer=tokenizer)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["labels.json", "open_clip_config.json"]
