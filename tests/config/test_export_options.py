"""The options of export.py: its own ones, and the keys of recipes."""

from __future__ import annotations

import pytest

from mindcv_ghost.config import KEYS, SCRIPT_SECTIONS, Config, ExportConfig, keys_of, load_config
from mindcv_ghost.errors import ConfigError


def export(*words: str) -> ExportConfig:
    return load_config(list(words), script="export").export


def refusal(*words: str, script: str = "export") -> str:
    with pytest.raises(ConfigError) as refused:
        load_config(list(words), script=script)
    return str(refused.value)


def test_without_options_one_onnx_file_of_any_batch_is_written():
    assert export() == ExportConfig() == Config().export
    assert (export().format, export().dynamic) == (("onnx",), ("batch",))


@pytest.mark.parametrize(
    ("words", "dynamic"),
    [
        (("batch,size",), ("batch", "size")),
        (("batch", "size"), ("batch", "size")),
        (("none",), ()),
    ],
)
def test_sizes_that_vary_are_a_list_or_none(words, dynamic):
    assert export("--dynamic", *words).dynamic == dynamic


def test_both_formats_are_given_as_two_words():
    assert export("--format", "onnx", "mindir", "--output", "x").format == ("onnx", "mindir")


def test_keys_of_recipes_are_options_as_well(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("model: ghostnet_100\nimage_resize: 96\n")
    config = load_config(["-c", str(recipe), "--num_classes", "7", "--fp16"], script="export")
    assert (config.model.model, config.model.num_classes) == ("ghostnet_100", 7)
    assert (config.augment.image_resize, config.export.fp16) == (96, True)


@pytest.mark.parametrize("name", sorted(set(keys_of("export")) - set(KEYS)))
def test_other_scripts_and_recipes_know_none_of_its_own_options(name, tmp_path):
    assert "there is no such option" in refusal(f"--{name}", "1", script="train")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"{name}: 1\n")
    assert f"there is no key {name}" in refusal("--config", str(recipe))


def test_output_is_still_a_foreign_name_of_the_run_folder_in_training():
    assert "did you mean --ckpt_save_dir?" in refusal("--output", "x", script="train")
    assert export("--output", "x").output == "x"


def test_own_options_take_no_name_of_a_key_and_are_not_part_of_a_recipe():
    own = {key for sections in SCRIPT_SECTIONS.values() for key in sections}
    assert own == {"export"}
    assert set(load_config(["--fp16"], script="export").flat()) == set(KEYS)
    assert "fp16" not in load_config(["--fp16"], script="export").to_yaml()


def test_a_misspelt_option_suggests_one_of_its_own():
    assert "did you mean --embed_preprocess?" in refusal("--embed_preproces")


def test_help_begins_with_its_own_options(capsys):
    with pytest.raises(SystemExit):
        load_config(["--help"], script="export")
    text = capsys.readouterr().out
    assert text.startswith("usage: mindcv-ghost export")
    assert text.index("--embed_preprocess") < text.index("--batch_size")
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--format torchscript", "give onnx, mindir or both; torchscript isn't one"),
        ("--format onx", "did you mean 'onnx'?"),
        ("--format none", "name onnx, mindir or both"),
        ("--dynamic size", "size alone can't vary"),
        ("--fp16 --format mindir", "fp16 is for the ONNX file: add onnx"),
        ("--fp16 --format onnx mindir", "write the .mindir file by a command of its own"),
        ("--embed_preprocess --format onnx mindir", "by a command of its own"),
        ("--embed_preprocess --dynamic batch,size", "give --dynamic batch"),
        ("--embed_preprocess --interpolation area", "by bilinear, bicubic and nearest"),
        ("--web w --format mindir", "web is for the ONNX file"),
        ("--triton t --format mindir", "triton is for the ONNX file"),
        ("--int8 c --format mindir", "int8 is for the ONNX file"),
        ("--int8 c --fp16", "either int8 or float16"),
        ("--int8_report r.csv", "give --int8 FOLDER"),
        ("--int8 c --max_drop 101", "at least 0 and at most 100"),
        ("--int8 c --runtime tensorrt", "onnxruntime, openvino"),
        ("--verify_images -1", "at least 0; or all"),
    ],
)
def test_what_contradicts_itself_is_refused_with_a_remedy(words, part):
    assert part in refusal(*words.split())


def test_training_rules_do_not_apply():
    words = ["--mixup", "0.8", "--batch_size", "3"]
    assert load_config(words, script="export").dataset.batch_size == 3
    refusal(*words, script="train")


@pytest.mark.parametrize(
    ("words", "names"), [((), False), (("--data_dir", "x"), True), (("--dataset", "mnist"), True)]
)
def test_a_data_set_is_named_or_not(words, names):
    assert load_config(list(words), script="export").names_data is names
