"""``mindcv-ghost weights``: a line for each network that comes with the package."""

from __future__ import annotations

import pytest

from mindcv_ghost.commands.weights import main
from mindcv_ghost.weights import finding
from tests.helpers.published import ship, write_published


@pytest.fixture
def root(tmp_path, monkeypatch):
    folder = tmp_path / "shipped"
    folder.mkdir()
    ship(folder)
    monkeypatch.setattr(finding.importlib.resources, "files", lambda name: tmp_path)
    return folder


def test_without_any_it_says_how_to_publish(root, capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert out.startswith("no weights come with this package. `mindcv-ghost publish RUN_DIR OUT")


def test_model_name_arguments_data_accuracy_size_and_licence_are_listed(root, capsys):
    write_published(root / "ghost_resnet20_cifar" / "pets", model_args={})
    changes = {"model_args": {"ratio": 4, "act": "relu6"}, "license": "MIT"}
    write_published(root / "ghost_resnet18" / "pets", model="ghost_resnet18", **changes)
    ship(root)
    assert main([]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["model", "name", "model_args", "data", "top-1", "size", "licence"]
    accuracy = ["91.00", "%", "(91", "of", "100", "images)"]
    size = ["0.02", "MB"]
    assert [row.split() for row in rows] == [
        ["ghost_resnet18", "pets", "ratio=4", "act=relu6", "pets", *accuracy, *size, "MIT"],
        ["ghost_resnet20_cifar", "pets", "-", "pets", *accuracy, *size, "CC0-1.0"],
    ]


def test_a_damaged_package_is_told(root, capsys):
    write_published(root / "ghost_resnet18" / "pets")
    ship(root)
    (root / "ghost_resnet18" / "pets" / "card.json").write_text("{}")
    assert main([]) == 2
    assert "card.json isn't the file that was published" in capsys.readouterr().err
