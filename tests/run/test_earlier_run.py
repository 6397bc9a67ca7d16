"""What a training leaves in its run folder doesn't pass for a later one's."""

from __future__ import annotations

from mindcv_ghost.config import load_config
from mindcv_ghost.run.training import _create_writer
from mindcv_ghost.storage.run_folder import RunFolder


def test_a_new_run_renames_an_earlier_ones_metrics_states_and_kept_checkpoints(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / "resume").mkdir()
    names = ("metrics.csv", "best.ckpt", "ghost_resnet18-3_20.ckpt", "other-1_2.ckpt", "my-a.ckpt")
    for name in names:
        (tmp_path / name).write_text(name)
    config = load_config(["--model", "ghost_resnet18", "--dataset", "digits"], script="train")
    _create_writer(config, folder, 10, {}, None)
    assert (tmp_path / "resume.1").is_dir()
    for name in names[:-1]:
        stem, _, suffix = name.rpartition(".")
        assert (tmp_path / f"{stem}.1.{suffix}").read_text() == name
    assert not {path.name for path in tmp_path.iterdir()} & set(names[1:-1])
    assert (tmp_path / "my-a.ckpt").is_file()
    folder.close()
