"""A file has its old content or the new one, never a part of it."""

from __future__ import annotations

import os
import stat

import pytest

from mindcv_ghost.storage.atomic_file import write_bytes, write_text


def test_a_failed_write_leaves_the_old_file_and_no_temporary_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_text(path, "old")

    def full(_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path):
    write_bytes(tmp_path / "ours", b"x")
    (tmp_path / "other").write_bytes(b"x")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "other")}
    assert len(modes) == 1
