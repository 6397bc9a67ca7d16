"""Which commit a record names."""

from __future__ import annotations

import subprocess

import pytest

from mindcv_ghost.storage import provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with one file of code and one commit."""
    code = tmp_path / "mindcv_ghost" / "storage"
    code.mkdir(parents=True)
    (code / "provenance.py").write_text("a = 1\n")
    monkeypatch.setattr(provenance, "__file__", str(code / "provenance.py"))
    for command in ("init -q", "add .", "-c user.name=A -c user.email=a@b commit -qm first"):
        subprocess.run(["git", "-C", str(tmp_path), *command.split()], check=True)
    return tmp_path


def test_a_commit_is_named_and_files_beside_the_code_change_nothing(checkout):
    (checkout / "runs").mkdir()
    (checkout / "runs" / "mine.py").write_text("")
    (checkout / "mindcv_ghost" / "notes.txt").write_text("")
    commit = provenance.source_commit()
    assert len(commit) == 12 and provenance.is_repeatable(commit)


@pytest.mark.parametrize("name", ["mindcv_ghost/storage/provenance.py", "mindcv_ghost/new/a.py"])
def test_changed_code_and_code_that_git_does_not_know_are_differences(checkout, name):
    (checkout / name).parent.mkdir(exist_ok=True)
    (checkout / name).write_text("a = 2\n")
    commit = provenance.source_commit()
    assert commit.endswith("-dirty") and not provenance.is_repeatable(commit)


def test_without_a_checkout_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "a" / "b" / "provenance.py"))
    assert provenance.source_commit() is None
