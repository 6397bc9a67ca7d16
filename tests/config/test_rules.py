"""Keys that don't go together, and what MindCV accepts without doing it."""

from __future__ import annotations

import pytest

from mindcv_ghost.config import load_config

CONTRADICTIONS = [
    ("mixup: 0.2\nbatch_size: 7", ["mixup 0.2", "recipe.yaml:1", "batch_size 7", "even"]),
    ("cutmix: 1.0\nbatch_size: 75", ["cutmix mixes pairs"]),
    ("aug_splits: 3", ["auto_augment null (default)", "need a policy"]),
    ("num_samples: 100\naug_repeats: 3", ["can't be used together"]),
    ("loss: jsd", ["set aug_splits: 3"]),
    ("scheduler: one_cycle", ["one_cycle rises by itself: set warmup_epochs: 0"]),
    ("scheduler: cyclic\nwarmup_epochs: 0\nlr_epoch_stair: true", ["lr_epoch_stair: false"]),
    ("scheduler: one_cycle\nwarmup_epochs: 0\nmin_lr: 0", ["divides by min_lr"]),
    ("lr: 1e-4\nmin_lr: 1e-3", ["make min_lr the smaller"]),
    ("opt: sgd\nuse_nesterov: true\nmomentum: 0", ["set momentum: 0.9"]),
    ("opt: nesterov\nmomentum: 0", ["opt nesterov", "set momentum: 0.9"]),
    ("opt: nadam\nlayer_decay: 0.75", ["nadam has one rate for all layers"]),
    ("loss: asl_single_label\nmixup: 0.2", ["takes one class an image: set mixup: 0"]),
    (
        "aug_splits: 3\nauto_augment: augmix-m5\ncutmix: 1.0",
        ["would blend an image's three copies"],
    ),
    (
        "aug_splits: 3\nauto_augment: augmix-m5\ndataset: cifar10",
        ["augmentation splits are for image folders"],
    ),
    ("ckpt_save_policy: top_k", ["val_while_train false (default)", "set val_while_train: true"]),
    ("teacher: resnet18", ["teacher_ckpt '' (default)", "give its file with teacher_ckpt"]),
    ("teacher_ckpt: a.ckpt", ["teacher '' (default)", "name the teacher's network"]),
    ("teacher_args: {depth: 4}", ["name the teacher's network with teacher"]),
    ("teacher_ema: true", ["or leave teacher_ema out"]),
    ("distill_alpha: 0", ["there is no teacher: name one, or leave distill_alpha out"]),
    ("distill_temperature: 4", ["leave distill_temperature out"]),
]
ALWAYS = [
    ("pretrained: true\nckpt_path: a.ckpt", ["can start from one only"]),
    (
        "dataset_download: true",
        ["only cifar10, cifar100, mnist and fashion_mnist can be downloaded"],
    ),
    ("mean: [1, 2, 3]\nstd: [1]", ["equally many numbers"]),
    ("interpolation: pilcubic\nauto_augment: randaug", ["set interpolation: bicubic"]),
    ("interpolation: antialias", ["needs PIL images", "give bicubic"]),
]


@pytest.mark.parametrize(("text", "parts"), CONTRADICTIONS + ALWAYS)
def test_contradiction_names_both_keys_where_they_stand_and_the_remedy(text, parts, refused):
    message = refused(text)
    assert len(message.splitlines()) == 1
    for part in parts:
        assert part in message


@pytest.mark.parametrize(("text", "parts"), CONTRADICTIONS)
def test_rules_about_training_do_not_apply_to_validation(text, parts, load):
    load(text, script="validate")


@pytest.mark.parametrize(("text", "parts"), ALWAYS)
def test_rules_about_data_and_weights_apply_to_validation(text, parts, refused):
    assert parts[0] in refused(text, script="validate")


def test_contradiction_between_recipe_and_option_names_both(refused):
    message = refused("mixup: 0.2", "--batch_size", "7")
    assert "recipe.yaml:1) with batch_size 7 (--batch_size): " in message


def test_no_rule_is_checked_for_a_key_that_could_not_be_read(refused):
    message = refused("ckpt_save_policy: top_k\nval_while_trian: true\n")
    assert len(message.splitlines()) == 1
    assert "did you mean val_while_train?" in message


def test_command_line_chooses_between_pretrained_and_checkpoint(load):
    config = load("pretrained: true", "--ckpt_path", "best.ckpt", script="validate")
    assert (config.model.pretrained, config.model.ckpt_path) == (False, "best.ckpt")
    assert "pretrained is ignored, --ckpt_path is given" in config.notices[0]
    config = load("ckpt_path: best.ckpt", "--pretrained")
    assert (config.model.pretrained, config.model.ckpt_path) == (True, "")


def test_pretrained_and_checkpoint_both_on_the_command_line_are_refused(refused):
    assert "can start from one only" in refused(None, "--pretrained", "--ckpt_path", "a.ckpt")


@pytest.mark.parametrize(
    "words",
    [
        ["--scheduler", "one_cycle", "--warmup_epochs", "0"],
        ["--scheduler", "constant", "--min_lr", "1", "--lr", "0.1"],
        ["--mixup", "0.2", "--batch_size", "1"],
        ["--dataset", "cifar10", "--dataset_download"],
        ["--aug_splits", "3", "--auto_augment", "augmix-m5", "--loss", "jsd"],
        ["--ckpt_save_policy", "top_k", "--val_while_train"],
        ["--num_samples", "8", "--aug_repeats", "0"],
    ],
)
def test_keys_that_do_not_contradict_each_other_are_legal(words):
    load_config(words)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("loss_scale_type: dynamic", "whatever drop_overflow_update says"),
        ("interpolation: lanczos", "recipe.yaml:1: interpolation lanczos is unknown: bilinear is"),
        ("auto_augment: randaug-m9-inc0", "MindCV takes inc0 for inc1"),
        ("auto_augment: randaug-m9-fast", "'fast' has no number and is ignored"),
        ("auto_augment: autoaug-mstd1.0", "MindCV's mstd is 0.5, whatever is given"),
        ("mixup: 0.2\nbatch_size: 1", "mixup and cutmix are off"),
        ("lr: 0", "nothing will be learnt"),
        ("loss: BCE\naux_factor: 0.4", "aux_factor has no effect with loss BCE: set loss: CE"),
        ("loss: asl_multi_label\nlabel_smoothing: 0.1", "no effect on asl_multi_label"),
        ("loss: asl_single_label\nreduction: sum", "reduction has no effect on asl_single_label"),
        ("opt: adan\nweight_decay: 0.02", "weight_decay has no effect on MindCV's adan, unless"),
        ("scheduler: multi_step_decay", "so not all are reached in 90 epochs"),
        ("re_prob: 0.25\nre_value: 128", "re_value is written after normalisation, as in MindCV"),
        ("dataset: cifar10\ninterpolation: bicubic", "interpolation has no effect on cifar10"),
        ("epoch_size: 1\n", "warmup_epochs 3 is longer than epoch_size 1"),
        ("epoch_size: 90\ndecay_epochs: 100", "the learning rate never reaches min_lr"),
        ("filter_bias_and_bn: true", "today's weight_decay_filter: norm_and_bias"),
        ("config: a.yaml", "config is ignored in a recipe"),
        (
            "dataset: fashion_mnist\nmean: [1]\nstd: [2]",
            "mean, std have no effect on fashion_mnist",
        ),
        ("dataset: mnist\nhflip: 0.0", "hflip has no effect on mnist"),
        ("dataset: cifar10\ncolor_jitter: 0.2", "color_jitter has no effect on cifar10"),
        ("warmup_epochs: 2\nlr_epoch_stair: true\nepoch_size: 200", "the whole first epoch is 0"),
    ],
)
def test_a_key_that_has_no_or_another_effect_is_a_notice(text, part, load):
    notices = load(text).notices
    assert [part in notice for notice in notices].count(True) == 1
    assert all("\n" not in notice for notice in notices)


def test_keys_that_arrays_have_are_no_notice(load):
    text = "hflip: 0.0\nre_prob: 0.3\nauto_augment: randaug-m9\nimage_resize: 28\n"
    for dataset in ("cifar10", "fashion_mnist"):
        notices = load(f"dataset: {dataset}\n{text}").notices
        assert not any("no effect" in notice for notice in notices)


def test_unknown_interpolation_becomes_bilinear(load):
    assert load("interpolation: lanczos").augment.interpolation == "bilinear"
    assert load("interpolation: lanczos", "--interpolation", "bicubic").notices[:-1] == ()


def test_keys_of_older_recipes_mean_what_they_meant(load, refused):
    assert load("filter_bias_and_bn: True").optimizer.weight_decay_filter == "norm_and_bias"
    assert load("filter_bias_and_bn: False").optimizer.weight_decay_filter == "disable"
    assert load("dynamic_loss_scale: true").amp.loss_scale_type == "dynamic"
    both = load("filter_bias_and_bn: true\nweight_decay_filter: auto\n")
    assert both.optimizer.weight_decay_filter == "auto"
    assert "filter_bias_and_bn is true or false" in refused("filter_bias_and_bn: 3")
