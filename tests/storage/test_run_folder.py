"""A run folder's own files."""

from __future__ import annotations

from mindcv_ghost.storage.run_folder import RunFolder


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
