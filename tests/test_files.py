"""Text files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipfast import InputError
from clipfast.files import write_text


def test_text_is_utf_8_with_its_own_line_ends(tmp_path):
    write_text(tmp_path / "a.csv", "≤ é\r\nb\n")
    assert (tmp_path / "a.csv").read_bytes() == "≤ é\r\nb\n".encode()
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_what_stood_there_is_untouched_until_the_end(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("older")

    def full(self, *_, **__):
        self.write_bytes(b"ha")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(InputError, match=r"cannot write .*a\.json: No space left on device"):
            write_text(path, "newer")
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]
    write_text(path, "newer")
    assert path.read_text() == "newer"


def test_a_folder_in_the_way_is_named(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*a\.json"):
        write_text(tmp_path / "a.json", "text")
    with pytest.raises(InputError, match="No such file or directory"):
        write_text(tmp_path / "gone" / "a.json", "text")
