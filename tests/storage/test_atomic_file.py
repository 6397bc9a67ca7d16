"""A file has its old content or the new one, never a part of it."""

from __future__ import annotations

import os
import stat

import pytest

from mindcv_ghost.storage.atomic_file import (
    link_or_copy,
    remove_temporary_files,
    write_bytes,
    write_text,
)


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


def test_a_second_name_that_is_there_already_leaves_no_third(tmp_path):
    write_text(tmp_path / "last", "weights")
    for _ in range(2):
        link_or_copy(tmp_path / "last", tmp_path / "best")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "last"]
    assert (tmp_path / "best").samefile(tmp_path / "last")


def test_only_temporary_files_of_the_given_names_are_removed(tmp_path):
    leftovers = (".a.ckpt.12ab34cd.tmp", ".a.ckpt.12ab34cd.tmp.ckpt", ".a.ckpt.12ab34cd.tmp.tmp")
    others = (".b.ckpt.12ab34cd.tmp", ".a.ckpt.tmp", ".a.ckpt.12ab34cd.tmp~", "a.ckpt", ".tmp")
    for name in (*leftovers, *others):
        (tmp_path / name).write_text("")
    remove_temporary_files(tmp_path, r"a\.ckpt")
    assert {path.name for path in tmp_path.iterdir()} == {*others}
