"""The settings tried for the quick start: what a run gives, and the table."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from mindcv_ghost.config.loading import load_config
from tests.tools.test_tables import ROOT
from tools.measure import digits_settings
from tools.pages.digits_settings import digits_settings_rows

METRICS = """epoch,step,loss,lr,val_loss,top1,top5,images_per_second,epoch_seconds,compile_seconds
1,22,1.2,0.02,0.6,81.9,100,70,20,5
2,44,0.2,0.05,0.1,98.61,100,70,20,0
3,66,0.1,0.01,0.2,98.33,100,70,20,0
"""


@pytest.fixture
def mpirun(monkeypatch, tmp_path):
    """A training that writes metrics.csv; returns the command lines."""
    commands = []

    def run(command, **options):
        commands.append(command)
        folder = command[command.index("--ckpt_save_dir") + 1]
        with open(f"{folder}/metrics.csv", "w") as file:
            file.write(METRICS)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(digits_settings.subprocess, "run", run)
    monkeypatch.setattr(digits_settings, "OUT", tmp_path / "out.json")
    monkeypatch.setattr(digits_settings, "repeatable_commit", lambda: "0123456789ab")
    return commands


def test_runs_that_the_file_has_are_not_repeated(mpirun, tmp_path):
    assert digits_settings.main(["--seed", "1", "2"]) == 0
    assert digits_settings.main(["--seed", "1", "2", "3"]) == 0
    assert [command[command.index("--seed") + 1] for command in mpirun] == ["1", "2", "3"]
    runs = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert [run["top1"] for run in runs] == [[81.9, 98.61, 98.33]] * 3
    assert {run["first_val_loss"] for run in runs} == {0.6}
    assert {run["commit"] for run in runs} == {"0123456789ab"}


def test_the_table_has_each_seeds_best_epoch():
    runs = [
        {"setting": "a", "top1": [80.0, 99.17, 98.9], "first_val_loss": 0.8, "cpu_seconds": 220},
        {"setting": "a", "top1": [81.9, 98.61], "first_val_loss": 0.6, "cpu_seconds": 230},
        {"setting": "b", "top1": [10.0], "first_val_loss": 608851.83, "cpu_seconds": 249},
    ]
    assert digits_settings_rows(runs) == [
        ("a", "99.17, 98.61", "0.60 to 0.80", "225"),
        ("b", "10.00", "608,852", "249"),
    ]


def test_the_first_setting_is_what_the_recipe_has():
    first = next(iter(digits_settings.SETTINGS.values()))
    recipe = ["-c", str(ROOT / digits_settings.RECIPE)]
    plain, tried = load_config(recipe), load_config([*recipe, *first])
    assert plain.to_yaml() == tried.to_yaml()


def test_five_seeds_of_the_recipe_reach_97_5_percent_and_a_sane_first_validation():
    runs = json.loads((ROOT / "results" / "digits_settings.json").read_text())["runs"]
    setting = next(iter(digits_settings.SETTINGS))
    tried = {run["seed"]: run for run in runs if run["setting"] == setting}
    assert len(tried) >= 5
    for run in tried.values():
        assert run["options"] == digits_settings.SETTINGS[setting]
        assert max(run["top1"]) >= 97.5 and run["first_val_loss"] < 10
