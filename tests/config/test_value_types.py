"""What each type of value accepts and refuses, in a recipe and on the command line alike."""

from __future__ import annotations

import pytest

from mindcv_ghost.config import load_config
from mindcv_ghost.errors import ConfigError

ACCEPTED = [
    ("lr", "1e-5", 1e-5),  # text for PyYAML
    ("lr", "1", 1.0),
    ("lr", ".5", 0.5),
    ("lr", "1.", 1.0),
    ("lr", "+2E-3", 0.002),
    ("min_lr", "0", 0.0),
    ("weight_decay", "5e-2", 0.05),
    ("epoch_size", "1200", 1200),
    ("seed", "0", 0),
    ("mode", "1", 1),
    ("ema", "true", True),
    ("ema", "Yes", True),
    ("ema", "off", False),
    ("shuffle", "False", False),
    ("drop_overflow_update", "False", False),
    ("eval_shuffle", "no", False),
    ("distribute", "null", None),
    ("distribute", "True", True),
    ("model", "18", "18"),
    ("data_dir", "/data/My images", "/data/My images"),
    ("opt", "AdamW", "adamw"),
    ("opt", "adan", "adan"),
    ("loss", "ce", "CE"),
    ("scheduler", "warmup_cosine_decay", "warmup_cosine_decay"),
    ("scheduler", "polynomial_decay", "polynomial_decay"),
    ("loss_scale_type", "Dynamic", "dynamic"),
    ("dataset", "ImageNet", "imagenet"),
    ("device_target", "ascend", "Ascend"),
    ("device_target", "Auto", "auto"),
    ("amp_level", "o2", "O2"),
    ("jit_level", "auto", None),
    ("jit_level", "O1", "O1"),
    ("image_resize", "224", 224),
    ("image_resize", "[224, 192]", (224, 192)),
    ("image_resize", "[224]", 224),
    ("scale", "[0.08, 1.0]", (0.08, 1.0)),
    ("scale", "[ 0.08, 1 ]", (0.08, 1.0)),
    ("scale", "(0.2, 1.0)", (0.2, 1.0)),
    ("mean", "[0, 127.5, 255]", (0.0, 127.5, 255.0)),
    ("color_jitter", "0.4", 0.4),
    ("color_jitter", "[0.4, 0.4, 0.4]", (0.4, 0.4, 0.4)),
    ("color_jitter", "[0.4, 0.4, 0.4, 0.1]", (0.4, 0.4, 0.4, 0.1)),
    ("color_jitter", "none", None),
    ("re_value", "random", "random"),
    ("re_value", "127", 127),
    ("re_value", "[124, 116, 104]", (124, 116, 104)),
    ("multi_step_decay_milestones", "[30, 60]", (30, 60)),
    ("multi_step_decay_milestones", "[30]", (30,)),
    ("drop_rate", "None", None),
    ("num_classes", "null", None),
    ("num_samples", "~", None),
    (
        "auto_augment",
        "randaug-m9-n2-w0-mstd0.5-mmax10-inc1",
        "randaug-m9-n2-w0-mstd0.5-mmax10-inc1",
    ),
    ("auto_augment", "autoaug-mstd0.5", "autoaug-mstd0.5"),
    ("auto_augment", "autoaugr", "autoaugr"),
    ("auto_augment", "3a", "3a"),
    ("auto_augment", "trivialaugwide-m20", "trivialaugwide-m20"),
    ("auto_augment", "augmix-m5-w4-d2-a0.5", "augmix-m5-w4-d2-a0.5"),
    ("auto_augment", "null", None),
    ("amp_cast_list", "'[nn.Conv1d, nn.Conv2d]'", "[nn.Conv1d, nn.Conv2d]"),
    ("ckpt_save_policy", "null", None),
    ("crop_pct", "1.15", 1.15),  # MindCV's volo_d4
    ("model_args", "{}", {}),
    ("interpolation", "BICUBIC", "bicubic"),
]
REFUSED = [
    *(("lr", text) for text in ("abc", "nan", ".nan", "inf", "-.inf", "-1", "1e999", "true", "''")),
    *(("lr", text) for text in ("1:30", "0x10", "[0.1]", "{a: 1}", "1 2", "null", "1_0")),
    *(("batch_size", text) for text in ("-8", "0", "8.0", "1e3", "[8]", "010", "99999999999")),
    *(("batch_size", text) for text in ("9" * 5000, "true", "null", "eight")),
    *(("ema", text) for text in ("2", "maybe", "[true]", "null", "''")),
    *(("crop_pct", text) for text in ("0", "-0.5", "87.5")),
    *(("label_smoothing", text) for text in ("1", "1.5", "-0.1")),
    *(("ema_decay", text) for text in ("1.1", "-1")),
    *(("distill_temperature", text) for text in ("0", "-4", "1e200")),
    *(("drop_rate", text) for text in ("1", "-0.1", "x")),
    *(("scale", text) for text in ("[1.0, 0.08]", "0.5", "[0.1, 0.2, 0.3]", "[0.1, nan]", "[]")),
    *(("scale", text) for text in ("[-1, 1]", "[0.1, 2]", "[[0.1, 1]]", "[a, b]")),
    *(("ratio", text) for text in ("[0, 1]", "[2, 1]")),
    *(("std", text) for text in ("[0, 1, 1]", "[1, 1, 256]", "[-1]")),
    *(("mean", text) for text in ("[300, 1, 1]", "[a]", "[]")),
    *(("color_jitter", text) for text in ("[0.4, 0.4]", "-1", "[1, 2, 3, 4, 5]", "strong")),
    *(("re_value", text) for text in ("256", "rand", "[1, 2]", "1.5")),
    *(
        ("multi_step_decay_milestones", text)
        for text in ("[60, 30]", "[30, 30]", "[1.5]", "[0, 1]")
    ),
    *(("image_resize", text) for text in ("0", "[1, 2, 3]", "224.0", "[224, -1]")),
    *(("aug_splits", text) for text in ("1", "2", "4")),
    *(("mode", text) for text in ("2", "graph", "true")),
    *(("opt", text) for text in ("momentun", "''", "null", "[sgd]")),
    *(("amp_level", text) for text in ("O4", "2")),
    *(("loss", text) for text in ("None", "mse")),
    *(("dataset", text) for text in ("imagenette", "null")),
    *(
        ("auto_augment", text)
        for text in ("randaugg-m9", "randaug-x9", "randaug-m9.5", "randaug-n0")
    ),
    *(("auto_augment", text) for text in ("autoaug-m9", "augmix-d-1", "augmix-a0", "augmix-a0.0")),
    *(("auto_augment", text) for text in ("randaug-w1", "trivialaugwide-n2", "[randaug]", "''")),
    *(
        ("amp_cast_list", text)
        for text in ("nn.Conv2d", "'[nn.Conv2d'", "'[os.system(1)]'", "'[]'")
    ),
    *(("epoch_size", text) for text in ("0", "1.5", "-1")),
    *(("num_parallel_workers", text) for text in ("0", "-1", "many")),
    *(("loss_scale", text) for text in ("0.5", "0")),
    *(("ckpt_save_policy", text) for text in ("best", "''")),
    *(("ckpt_save_dir", text) for text in ("''", '"a\\0b"', '"a\\nb"')),
    *(("model_args", text) for text in ("5", "[1, 2]", "{num_classes: 3}", "{a b: 1}")),
    *(("model_args", text) for text in ("{a: {b: 1}}", "{a: .nan}", "{checkpoint_path: x}")),
]


@pytest.mark.parametrize(("key", "text", "value"), ACCEPTED)
def test_recipe_value_is_parsed(key, text, value, load):
    found = load(f"{key}: {text}").flat()[key]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(("key", "text", "value"), ACCEPTED)
def test_option_value_is_parsed_as_in_a_recipe(key, text, value):
    words = [f"--{key}", text.strip("'")]
    assert load_config(words).flat()[key] == value
    assert load_config([f"--{key}={words[1]}"]).flat()[key] == value
    assert load_config([f"--{key.replace('_', '-')}", words[1]]).flat()[key] == value


@pytest.mark.parametrize(("key", "text"), REFUSED)
def test_recipe_value_is_refused_with_line_key_and_what_is_legal(key, text, refused):
    message = refused(f"# a comment\n{key}: {text}\n")
    assert f"recipe.yaml:2: {key} " in message
    assert " isn't legal; give " in message
    assert len(message.splitlines()) == 1
    assert len(message) < 700


# Not YAML's mappings and quotes; and the command line accepts brackets around one number.
YAML_ONLY = ("'", '"', "{")
OPTIONS = [row for row in REFUSED if row[1][:1] not in YAML_ONLY and row != ("lr", "[0.1]")]


@pytest.mark.parametrize(("key", "text"), OPTIONS)
def test_option_value_is_refused_with_the_option_and_what_is_legal(key, text):
    with pytest.raises(ConfigError) as caught:
        load_config([f"--{key}", text])
    assert str(caught.value).startswith(f"--{key}: ")
    assert "Traceback" not in str(caught.value)


def test_zero_and_one_are_booleans_on_the_command_line_only(refused):
    assert load_config(["--ema", "1", "--shuffle", "0"]).train.ema is True
    assert "ema 1 isn't legal; give true or false" in refused("ema: 1")


def test_quoted_numbers_and_booleans_are_read_as_mindcvs_parser_does(load):
    config = load("lr: '0.1'\nbatch_size: '8'\nema: 'true'\nshuffle: \"0\"\n")
    assert (config.scheduler.lr, config.dataset.batch_size) == (0.1, 8)
    assert (config.train.ema, config.dataset.shuffle) == (True, False)


def test_quoted_null_is_text_and_empty_is_nothing(load, refused):
    assert load("ckpt_path:").model.ckpt_path == ""
    assert load("per_class: 'none'").evaluate.per_class == "none"
    assert "write '' for none" in refused("ckpt_path: null")


def test_command_line_bytes_that_are_not_utf8_are_refused_and_printable():
    with pytest.raises(ConfigError) as caught:
        load_config(["--data_dir", "/data/\udcff"])
    assert "--data_dir: " in str(caught.value)
    str(caught.value).encode("utf-8")


def test_folder_names_in_any_script_are_legal(load):
    for name in ("/data/画像", "./мои данные", "/données/été", "a: b # c", "~/x", "-", "C:\\x"):
        assert load_config(["--data_dir=" + name]).dataset.data_dir == name
        config = load_config(["--data_dir=" + name])
        assert load(config.to_yaml()).dataset.data_dir == name


def test_model_args_get_the_types_that_they_look_like(load):
    text = "model_args: {ratio: 4, drop: 1e-3, deep: true, act: relu, blocks: [3, 4, 6], a: null}"
    values = {
        "ratio": 4,
        "drop": 0.001,
        "deep": True,
        "act": "relu",
        "blocks": [3, 4, 6],
        "a": None,
    }
    assert load(text).model.model_args == values
    words = ["ratio=4", "drop=1e-3", "deep=true", "act=relu", "blocks=[3,4,6]", "a=null"]
    config = load_config(["--model_args", *words])
    assert config.model.model_args == values
    assert load(config.to_yaml()).model.model_args == values


def test_model_args_quoted_text_stays_text(load):
    config = load("model_args: {a: '4', b: 'true', c: '1e-5', d: ''}")
    assert config.model.model_args == {"a": "4", "b": "true", "c": "1e-5", "d": ""}
    assert load(config.to_yaml()).model.model_args == config.model.model_args


def test_model_args_may_not_repeat_a_key(refused):
    assert "num_classes is an option of its own: --num_classes" in refused(
        None, "--model_args", "num_classes=5"
    )


def test_cast_classes_are_the_names_of_the_cast_list(load):
    config = load("amp_cast_list: '[nn.Conv1d, nn.Conv2d]'")
    assert config.amp.cast_classes == ("Conv1d", "Conv2d")
    assert load("").amp.cast_classes == ()
