"""Files that appear together, or not at all."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mindcv_ghost.storage import staging
from mindcv_ghost.storage.atomic_file import move_into_place
from mindcv_ghost.storage.provenance import sha256_of
from mindcv_ghost.storage.staging import folder_problem, is_claimed, staged


def test_files_appear_at_the_end_and_replace_older_ones(tmp_path):
    (tmp_path / "a").write_text("old")
    (tmp_path / "other").write_text("stays")
    with staged(tmp_path) as folder:
        (folder / "a").write_text("new")
        (folder / "b").write_text("b")
        assert (tmp_path / "a").read_text() == "old"
        assert not (tmp_path / "b").exists()
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        **{"a": "new", "b": "b", "other": "stays"}
    }


def test_after_an_error_the_folder_is_as_it_was(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt), staged(tmp_path) as folder:
        (folder / "a").write_text("half")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_nothing_is_replaced_where_one_of_the_names_is_a_folder(tmp_path):
    (tmp_path / "a").write_text("old")
    (tmp_path / "b").mkdir()
    with pytest.raises(IsADirectoryError), staged(tmp_path) as folder:
        (folder / "a").write_text("new")
        (folder / "b").write_text("new")
    assert (tmp_path / "a").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_why_a_folder_cannot_be_written_is_told_for_a_name_that_is_too_long(tmp_path):
    assert "can't be written to (File name too long)" in folder_problem(tmp_path / ("x" * 300))


def test_folders_that_it_created_are_removed_after_an_error(tmp_path):
    with pytest.raises(OSError, match="full"), staged(tmp_path / "x" / "y") as folder:
        (folder / "a").write_text("half")
        raise OSError("full")
    assert list(tmp_path.iterdir()) == []


def test_only_one_of_two_writers_gets_a_new_folder(tmp_path):
    out = tmp_path / "out"
    with staged(out, new=True) as folder:
        assert is_claimed(out)
        with pytest.raises(FileExistsError), staged(out, new=True):
            pytest.fail("two writers")
        (folder / "a").write_text("first")
    with pytest.raises(FileExistsError), staged(out, new=True):
        pytest.fail("it isn't empty")
    assert not is_claimed(out)
    assert {p.name: p.read_text() for p in out.iterdir()} == {"a": "first"}


def test_a_new_folder_is_empty_again_if_one_of_its_files_cannot_be_moved(tmp_path, monkeypatch):
    def fails_at_b(source, target):
        if source.name == "b":
            raise KeyboardInterrupt
        move_into_place(source, target)

    monkeypatch.setattr(staging, "move_into_place", fails_at_b)
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "out", new=True) as folder:
        for name in ("a", "b"):
            (folder / name).write_text(name)
    assert list(tmp_path.iterdir()) == []


def test_files_that_others_put_into_a_new_folder_stay_if_it_fails(tmp_path, monkeypatch):
    def fails_at_b(source, target):
        if source.name == "b":
            (target.parent / "folder").mkdir()
            (target.parent / "notes.txt").write_text("mine")
            raise OSError("full")
        move_into_place(source, target)

    monkeypatch.setattr(staging, "move_into_place", fails_at_b)
    with pytest.raises(OSError, match="full"), staged(tmp_path / "out", new=True) as folder:
        for name in ("a", "b"):
            (folder / name).write_text(name)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["folder", "notes.txt"]
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_a_file_that_others_put_into_a_new_folder_is_not_replaced(tmp_path):
    with pytest.raises(FileExistsError), staged(tmp_path / "out", new=True) as folder:
        for name in ("a", "b"):
            (folder / name).write_text("ours")
        (tmp_path / "out" / "b").write_text("mine")
    assert {p.name: p.read_text() for p in (tmp_path / "out").iterdir()} == {"b": "mine"}


def test_files_for_the_owner_alone_get_the_usual_permissions(tmp_path):
    with staged(tmp_path) as folder:
        (folder / "a").write_text("a")
        os.chmod(folder / "a", 0o400)
        (folder / "b").mkdir(0o700)
        (folder / "b" / "c").write_text("c")
        os.chmod(folder / "b" / "c", 0o400)
    mask = os.umask(0)
    os.umask(mask)
    modes = [stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("a", "b", "b/c")]
    assert modes == [0o666 & ~mask, 0o777 & ~mask, 0o666 & ~mask]


def test_a_folder_of_files_replaces_an_older_one(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    move_into_place(tmp_path / "new", tmp_path / "old")
    assert [p.name for p in (tmp_path / "old").iterdir()] == ["new"]


def test_sigterm_leaves_nothing_and_gives_its_status(tmp_path):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from mindcv_ghost.storage.staging import staged\n"
        "with staged(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'a').write_text('half'); print('ready', flush=True); time.sleep(60)\n"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout.readline() == "ready\n"
        assert len(list((tmp_path / "out").iterdir())) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told_before(tmp_path):
    (tmp_path / "file").write_text("")
    assert folder_problem(tmp_path) == folder_problem(tmp_path / "a" / "b") == ""
    assert folder_problem(tmp_path / "file" / "x") == f"{tmp_path / 'file'} isn't a folder"
    assert folder_problem(Path("/proc/x")).startswith("/proc can't be written to (")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_sha256_is_that_of_the_whole_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 3_000_000)
    told = subprocess.run(["sha256sum", tmp_path / "a"], capture_output=True, text=True).stdout
    assert sha256_of(tmp_path / "a") == told.split()[0]
