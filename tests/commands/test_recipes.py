"""``mindcv-ghost recipes``: the list, a recipe's text, a copy."""

from __future__ import annotations

import pytest

from mindcv_ghost.commands.recipes import main
from mindcv_ghost.config import load_config
from mindcv_ghost.config.shipped import list_recipes

NAME = "g_ghost_regnetx_002_ascend"  # has a _base_


def test_the_list_has_a_line_for_each_recipe(capsys):
    assert main([]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["recipe", "model", "data", "set", "epochs"]
    assert [line.split()[0] for line in lines] == list(list_recipes())
    [digits] = [line for line in lines if line.startswith("ghost_resnet50_digits ")]
    assert digits.split()[1:3] == ["ghost_resnet50", "digits"]
    epochs = load_config(["--config", "ghost_resnet50_digits"]).train.epoch_size
    assert digits.split()[3] == str(epochs)
    assert "Ghost-ResNet-50 on scikit-learn's handwritten digits" in digits


def test_a_name_prints_the_recipe(capsys):
    assert main([NAME]) == 0
    assert capsys.readouterr().out == list_recipes()[NAME].read_text(encoding="utf-8")


@pytest.mark.parametrize("words", [[], ["--copy"]])
def test_a_misspelt_name_gets_the_nearest_one(words, capsys):
    assert main([*words, "ghost_resnet50_digts"]) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: there is no recipe 'ghost_resnet50_digts'; did you mean ")
    assert "'ghost_resnet50_digits'?" in text


def test_a_copy_is_the_same_training(tmp_path, capsys):
    folder = tmp_path / "new" / "folder"
    assert main(["--copy", NAME, str(folder)]) == 0
    path = folder / f"{NAME}.yaml"
    assert capsys.readouterr().out == f"written: {path}; use it with --config {path}\n"
    copied, shipped = load_config(["--config", str(path)]), load_config(["--config", NAME])
    assert copied.flat() == shipped.flat()


def test_a_copy_goes_into_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["--copy", NAME]) == 0
    assert [path.name for path in tmp_path.iterdir()] == [f"{NAME}.yaml"]


def test_an_edited_copy_is_kept(tmp_path, capsys):
    path = tmp_path / f"{NAME}.yaml"
    assert main(["--copy", NAME, str(tmp_path)]) == 0
    assert main(["--copy", NAME, str(tmp_path)]) == 0  # it is the same
    path.write_text("lr: 0.5\n")
    capsys.readouterr()
    assert main(["--copy", NAME, str(tmp_path)]) == 2
    assert f"{path} exists already and differs; --force" in capsys.readouterr().err
    assert path.read_text() == "lr: 0.5\n"
    assert main(["--force", "--copy", NAME, str(tmp_path)]) == 0
    assert path.read_text(encoding="utf-8") == list_recipes()[NAME].read_text(encoding="utf-8")


def test_where_nothing_can_be_written_the_message_says_so(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["--copy", NAME, str(tmp_path / "file")]) == 2
    assert "can't be written" in capsys.readouterr().err
    assert main(["--copy", NAME, "a", "b"]) == 2
    assert "a name and a folder, not 3 words" in capsys.readouterr().err
