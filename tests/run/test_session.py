"""A job that can't write its log ends with a message."""

from __future__ import annotations

import os

import pytest

from mindcv_ghost.config import load_config
from mindcv_ghost.launch.world import detect
from mindcv_ghost.run.session import open_session
from mindcv_ghost.storage.run_folder import RunFolder, RunFolderError


def test_a_log_that_cannot_be_written_is_told_and_the_folder_is_free_again(tmp_path):
    (tmp_path / "train.log").mkdir()
    words = ["--model", "ghost_resnet18", "--dataset", "digits", "--ckpt_save_dir", str(tmp_path)]
    config = load_config(words, script="train")
    with (
        pytest.raises(RunFolderError) as told,
        open_session(config, detect(os.environ), writes=True),
    ):
        pass
    assert str(told.value) == (
        f"the run folder {tmp_path} can't be written (Is a directory). Give another one with "
        "--ckpt_save_dir."
    )
    RunFolder(tmp_path).close()
