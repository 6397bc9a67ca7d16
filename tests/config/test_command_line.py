"""The command line: the forms of an option, mistakes and their messages."""

from __future__ import annotations

import pytest

from mindcv_ghost.config import load_config
from tests.helpers.effort import calls_of


def test_lists_may_be_separated_by_spaces_or_commas_and_bracketed():
    for words in (
        ["0.2", "0.9"],
        ["0.2,0.9"],
        ["[0.2,0.9]"],
        ["[0.2, 0.9]"],
        ["[0.2,", "0.9]"],
        ["(0.2,0.9)"],
        ["0.2,", "0.9"],
    ):
        config = load_config(["--scale", *words, "--lr", "0.5"])
        assert config.augment.scale == (0.2, 0.9), words
        assert config.scheduler.lr == 0.5


def test_a_list_ends_where_the_next_option_starts():
    config = load_config(["--mean", "1", "2", "3", "--std", "4", "5", "6", "--ema"])
    assert config.augment.mean == (1.0, 2.0, 3.0)
    assert config.augment.std == (4.0, 5.0, 6.0)
    assert config.train.ema is True


def test_booleans_stand_alone_or_take_a_value():
    assert load_config(["--ema"]).train.ema is True
    assert load_config(["--ema", "--clip_grad", "true"]).train.clip_grad is True
    assert load_config(["--ema=false"]).train.ema is False
    assert load_config(["--shuffle", "No"]).dataset.shuffle is False
    assert load_config(["--distribute"]).system.distribute is True


def test_negative_numbers_are_values_and_not_options(refused):
    assert refused(None, "--lr", "-0.1").startswith("--lr: -0.1 isn't legal")
    assert refused(None, "--lr", "-1e-3").startswith("--lr: -1e-3 isn't legal")
    assert refused(None, "--lr", "-.5").startswith("--lr: -.5 isn't legal")
    assert refused(None, "--lr", "-inf").startswith("--lr: -inf isn't legal")


def test_the_last_of_a_repeated_option_wins():
    config = load_config(["--lr", "0.1", "--ema", "--lr=0.2", "--ema", "false"])
    assert config.scheduler.lr == 0.2
    assert config.train.ema is False


def test_repeated_model_args_are_merged():
    config = load_config(["--model_args", "ratio=4", "act=relu", "--model_args", "ratio=2"])
    assert config.model.model_args == {"ratio": 2, "act": "relu"}


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("--batch", "--batch_size"),
        ("--batchsize", "--batch_size"),
        ("--weigth_decay", "--weight_decay"),
        ("--epochs", "--epoch_size"),
        ("--learning-rate", "--lr"),
        ("--workers", "--num_parallel_workers"),
        ("--Model", "--model"),
        ("--keep", "--keep_checkpoint_max"),
        ("--label-smooth", "--label_smoothing"),
        ("--no_ema", "--ema false"),
        ("--no-shuffle", "--shuffle false"),
    ],
)
def test_unknown_option_and_abbreviation_are_refused_with_the_nearest(word, near, refused):
    message = refused(None, word, "5")
    assert message.startswith(f"{word}: there is no such option; ")
    assert f"{near}" in message
    assert len(message.splitlines()) == 1


def test_option_near_nothing_points_to_help(refused):
    assert refused(None, "--zzz") == "--zzz: there is no such option; --help lists all options"


def test_single_dash_and_stray_words_are_refused(refused):
    assert refused(None, "-lr", "0.1") == (
        "2 problems in the configuration:\n"
        "  1. -lr: an option starts with two dashes: --lr?\n"
        "  2. 0.1: this word belongs to no option (text with spaces needs quotes)"
    )
    assert "lr=0.1: an option starts with two dashes: --lr=..." in refused(None, "lr=0.1")
    assert "images: this word belongs to no option" in refused(None, "--data_dir", "my", "images")


def test_option_without_its_value_says_what_it_takes(refused):
    assert refused(None, "--lr", "--ema") == "--lr: needs a value: a number at least 0"
    assert refused(None, "--scale").startswith("--scale: needs a value: 2 numbers")
    needed = "needs a YAML file, or a name that `mindcv-ghost recipes` lists"
    assert refused(None, "--config") == f"--config: {needed}"
    assert refused(None, "-c") == f"-c: {needed}"
    assert refused(None, "--config=") == f"--config: {needed}"


def test_config_may_be_given_in_each_form(recipe):
    path = recipe("lr: 0.25")
    for words in (["--config", path], ["-c", path], [f"--config={path}"]):
        config = load_config(words)
        assert config.path == path
        assert config.scheduler.lr == 0.25


def test_argv_of_the_process_is_read_by_default(monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "--epoch_size", "7"])
    assert load_config().train.epoch_size == 7


def test_a_message_guesses_no_more_keys_than_it_lists(refused):
    messages = []
    words = [word for i in range(4990) for word in (f"--kex{i}y", "1")]
    assert calls_of(lambda: messages.append(refused(None, *words))) < 2_000_000  # 14 million once
    assert messages[0].startswith("4990 problems") and "--kex49y" in messages[0]


@pytest.mark.parametrize("words", [["x"], ["--xx"], ["--model_args", "a=1"], ["--mean", "1"]])
def test_a_command_line_of_200000_words_is_refused_unread(words, refused):
    words = words * (200_000 // len(words))
    messages = []
    assert calls_of(lambda: messages.append(refused(None, *words))) < 5000
    assert messages[0].startswith("the command line has 200,000 words, more than 10,000; a recipe")
