"""A run folder's own files."""

from __future__ import annotations

import pytest

from mindcv_ghost.storage import run_folder
from mindcv_ghost.storage.run_folder import RunFolder, RunFolderError
from tests.helpers.locks import refuse_locks


def test_a_folder_knows_its_configuration_and_keeps_an_earlier_one(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert not folder.has_config("lr: 0.1\n")
    folder.write_config("lr: 0.1\n")
    assert folder.has_config("lr: 0.1\n")
    assert not folder.has_config("lr: 0.2\n")
    for number in (1, 2):
        assert folder.back_up("config.yaml") == folder.path / f"config.{number}.yaml"
        folder.write_config("lr: 0.2\n")
    assert (folder.path / "config.1.yaml").read_text() == "lr: 0.1\n"
    folder.close()


def test_temporary_files_of_a_killed_run_are_removed_by_the_next_that_holds_the_lock(
    tmp_path, monkeypatch
):
    ours = (".last.ckpt.12ab34cd.tmp.ckpt", ".best.ckpt.12ab34cd.tmp", ".net-3_7.ckpt.12ab34cd.tmp")
    ours += (".diverged.json.12ab34cd.tmp", ".diverged_rank12.json.12ab34cd.tmp")
    others = (".classes.csv.12ab34cd.tmp", ".vimrc.tmp", "last.ckpt", ".lock")
    for name in (*ours, *others):
        (tmp_path / name).write_text("")
    with monkeypatch.context() as patch:
        patch.setattr(run_folder.fcntl, "flock", refuse_locks)
        RunFolder(tmp_path).close()
    assert {path.name for path in tmp_path.iterdir()} == {*ours, *others}
    folder = RunFolder(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*others}
    (tmp_path / ours[0]).write_text("")
    with pytest.raises(RunFolderError, match="another run is writing"):
        RunFolder(tmp_path)
    assert (tmp_path / ours[0]).exists()
    folder.close()
