"""Recipe and command line together: precedence, all problems in one error, saving as YAML."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mindcv_ghost.config import Config, load_config

ROOT = Path(__file__).parents[2]


def test_command_line_overrides_recipe_which_overrides_default(load):
    config = load("lr: 0.1\nepoch_size: 5\n", "--lr", "0.2")
    assert config.scheduler.lr == 0.2
    assert config.train.epoch_size == 5
    assert config.dataset.batch_size == 128
    assert config.explicit == {"lr", "epoch_size"}


def test_all_problems_of_recipe_and_command_line_come_in_one_numbered_message(refused):
    message = refused(
        """\
        lr: fast
        weigth_decay: 1e-4
        batch_size: -8
        crop_pct: 0
        crop_pct: 0.9
        mixup: 0.2
        cutmix_prob: 2
        """,
        *("--epoch_size", "1.5", "--bogus", "--lr", "nan", "--ckpt_save_policy", "top_k"),
    )
    head, *lines = message.splitlines()
    assert head == "10 problems in the configuration:"
    assert [line.split(". ", 1)[0].strip() for line in lines] == [str(i) for i in range(1, 11)]
    for line, part in zip(
        lines,
        (
            *("--bogus: there is no such option", "--epoch_size: 1.5 isn't", "--lr: nan isn't"),
            "ckpt_save_policy top_k (--ckpt_save_policy) with val_while_train false (default)",
            *("recipe.yaml:1: lr fast", "recipe.yaml:2: there is no key weigth_decay"),
            *("recipe.yaml:3: batch_size -8", "recipe.yaml:4: crop_pct 0 isn't legal"),
            *("recipe.yaml:5: crop_pct is set twice", "recipe.yaml:7: cutmix_prob 2"),
        ),
    ):
        assert part in line


def test_a_message_lists_at_most_50_problems(refused):
    message = refused("".join(f"key{i}: 1\n" for i in range(80)))
    assert message.startswith("80 problems in the configuration:")
    assert message.endswith("... and 30 more")
    assert len(message.splitlines()) == 52


def test_long_values_are_shortened_in_messages(refused):
    message = refused("lr: " + "x" * 10_000)
    assert len(message) < 300 and "(10000 characters)" in message


def test_workers_are_at_most_the_usable_cores_and_a_notice_says_so(load, monkeypatch):
    monkeypatch.setattr("mindcv_ghost.config.config.usable_cores", lambda: 2)
    quiet = "decay_epochs: 87\n"
    assert load(quiet).workers == 2
    assert load(quiet).notices == ()
    assert load("num_parallel_workers: 1").workers == 1
    config = load(quiet + "num_parallel_workers: 8")
    assert config.workers == 2
    assert config.notices == ("num_parallel_workers 8 -> 2: this process has 2 cores",)
    # The key keeps its value, for the machine that the recipe was written for.
    assert config.dataset.num_parallel_workers == 8
    assert "num_parallel_workers: 8\n" in config.to_yaml()
    assert "num_parallel_workers: null\n" in load("").to_yaml()
    monkeypatch.setattr("mindcv_ghost.config.config.usable_cores", lambda: 1)
    assert load(quiet + "num_parallel_workers: 3").notices == (
        "num_parallel_workers 3 -> 1: this process has 1 core",
    )


def test_there_is_at_least_one_worker(load):
    assert load("").workers >= 1


def test_saved_configuration_loads_as_an_equal_one(recipe, tmp_path):
    path = recipe(
        """\
        model: ghost_resnet50
        model_args: {ratio: 4, cheap_kernel_size: 5, act: 'null', drop: 1e-7, layers: [3, 4]}
        data_dir: "/data/été #1: 'quoted' \\"too\\""
        color_jitter: [0.4, 0.4, 0.4]
        auto_augment: randaug-m9-mstd0.5
        image_resize: [224, 192]
        re_value: random
        lr: 0.1000000000000001
        min_lr: 1e-300
        drop_rate: 0.2
        distribute: true
        interpolation: lanczos
        num_parallel_workers: 64
        filter_bias_and_bn: true
        epoch_size: 2
        """
    )
    first = load_config(["--config", path, "--device_target", "gpu"])
    written = tmp_path / "config.yaml"
    written.write_text(first.to_yaml(), encoding="utf-8")
    again = load_config(["--config", str(written)])
    assert again == first
    assert again.flat() == first.flat()
    assert again.to_yaml() == first.to_yaml()
    assert again.explicit == set(first.flat())
    assert again.path == str(written) != first.path


def test_saved_configuration_has_sections_and_is_plain_yaml():
    import yaml

    text = load_config(["--lr", "1e-5"]).to_yaml()
    values = yaml.safe_load(text)
    assert values["lr"] == 1e-5 and isinstance(values["lr"], float)
    assert values["scale"] == [0.08, 1.0]
    assert values["distribute"] is None and values["shuffle"] is True
    for section in ("system", "dataset", "augment", "optimizer", "evaluate"):
        assert f"\n\n# {section}\n" in text


def test_configuration_cannot_be_changed():
    config = Config()
    with pytest.raises(AttributeError):
        config.scheduler.lr = 1.0


def test_configurations_of_equal_values_are_equal_whatever_set_them(load):
    assert load("lr: 0.5") == load_config(["--lr", "0.5"])
    assert load("lr: 0.5") != load_config(["--lr", "0.25"])


@pytest.mark.parametrize("script", ["train.py", "validate.py"])
def test_script_ends_with_status_2_and_no_traceback(script, recipe):
    path = recipe("weigth_decay: 1e-4\nlr: .nan\n")
    done = subprocess.run(
        [sys.executable, script, "--config", path], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: 2 problems in the configuration:\n")
    assert "did you mean weight_decay?" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
