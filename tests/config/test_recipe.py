"""Recipe files: what YAML is taken, ``_base_``, and what is said about files that can't be."""

from __future__ import annotations

import os

import pytest

from mindcv_ghost.config import load_config
from mindcv_ghost.config.recipe import MAX_BYTES, MAX_NODES, read_recipe
from mindcv_ghost.errors import ConfigError
from tests.helpers.effort import calls_of, no_hang


def message_for(path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(["--config", str(path)])
    return str(caught.value)


def test_empty_and_comment_only_recipes_change_nothing(load):
    for text in ("", "# nothing yet\n", "---\n", "---\n...\n"):
        assert load(text) == load_config([])


def test_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path):
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbflr: 0.5\r\nema: true\r\n")
    config = load_config(["-c", str(path)])
    assert (config.scheduler.lr, config.train.ema) == (0.5, True)


def test_unknown_key_is_named_with_its_line_and_the_nearest_key(refused):
    message = refused("lr: 0.1\n\nweigth_decay: 1e-4\n")
    assert message.endswith(
        "recipe.yaml:3: there is no key weigth_decay; did you mean weight_decay?"
    )


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("lr: 0.1\nema: true\nlr: 0.2\n", ["yaml:3: lr is set twice, first in line 1; keep one"]),
        ("- lr\n- ema\n", ["yaml:1: a recipe is lines of 'key: value'", "this is a list"]),
        ("just words\n", ["yaml:1: a recipe is lines of 'key: value'", "the text just words"]),
        ("lr: [0.1\nema: true\n", ["recipe.yaml:2: not YAML (column"]),
        ("lr: 0.1\n\tema: true\n", ["recipe.yaml:2: not YAML (column 1)", "'\\t'"]),
        ("lr: 'abc\n", ["not YAML", "quoted scalar"]),
        ("lr: 0.1\n---\nlr: 0.2\n", ["recipe.yaml:2: not YAML", "another document"]),
        (
            "scale: &a [0.1, 1.0]\nre_scale: *a\n",
            ["recipe.yaml:2: aliases (*name) aren't supported"],
        ),
        ("a: &a {lr: 1}\n<<: *a\n", ["recipe.yaml:2: aliases"]),
        ("<<: {lr: 1}\n", ["recipe.yaml:1: '<<' isn't supported; use _base_"]),
        ("[a, b]: 3\n", ["recipe.yaml:1: a key is a word, this is a sequence"]),
        ("lr: !!python/object/apply:os.system ['true']\n", ["recipe.yaml:1: lr"]),
        ("model: !!binary aGk=\n", ["recipe.yaml:1: the tag !!binary isn't supported"]),
        ("model: !local x\n", ["recipe.yaml:1: the tag !local isn't supported"]),
        ("model: !z!x y\n", ["recipe.yaml:1: not YAML", "undefined tag handle"]),
        ('model: "\\UFFFFFFFF"\n', ["recipe.yaml:1: not YAML"]),
        ("%YAML 9.9\n---\nlr: 1\n", ["recipe.yaml:1: not YAML", "incompatible"]),
        ("lr: [[[[[[[[1]]]]]]]]\n", ["recipe.yaml:1: nested deeper than 6 levels"]),
        ("optimizer:\n  opt: sgd\n", ["there is no key optimizer; keys belong at the top level"]),
        ("? \n: 3\n", ["recipe.yaml:2: there is no key ''"]),
        ("true: 3\n", ["recipe.yaml:1: there is no key true"]),
        ("help: true\n", ["recipe.yaml:1: there is no key help"]),
    ],
)
def test_document_that_is_no_recipe_is_refused_with_its_line(text, parts, refused):
    message = refused(text)
    for part in parts:
        assert part in message


def test_non_printable_character_is_named_with_its_line(tmp_path):
    path = tmp_path / "control.yaml"
    path.write_bytes(b"lr: 0.1\nmodel: a\x00b\n")
    assert message_for(path) == f"{path}:2: character 0 isn't allowed in YAML"


@pytest.mark.parametrize("raw", [b"lr: 0.1\n# caf\xe9\n", "lr: 0.1\n".encode("utf-16")])
def test_file_that_is_not_utf8_is_refused_with_byte_and_line(raw, tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes(raw)
    message = message_for(path)
    assert "isn't UTF-8 text: byte 0x" in message and "Save it as UTF-8" in message


def test_missing_file_is_refused_with_files_near_it(tmp_path):
    (tmp_path / "ghost_resnet50_ascend.yaml").write_text("lr: 1")
    (tmp_path / "readme.md").write_text("")
    message = message_for(tmp_path / "ghost_resnet50_ascent.yaml")
    assert message == (
        f"--config: there is no {tmp_path}/ghost_resnet50_ascent.yaml; "
        f"similar: {tmp_path}/ghost_resnet50_ascend.yaml"
    )
    assert "no folder" in message_for(tmp_path / "nowhere" / "x.yaml")
    assert "is a folder; give a YAML file, as" in message_for(tmp_path)
    assert "--config: 'a\\x00b' can't be read" in message_for("a\0b")


def test_unreadable_file_says_why(tmp_path):
    loop = tmp_path / "loop.yaml"
    os.symlink(loop, loop)
    assert "can't be read: Too many levels of symbolic links" in message_for(loop)


def test_file_beyond_250_kilobytes_is_refused_without_parsing_it(tmp_path):
    path = tmp_path / "weights.yaml"
    path.write_bytes(b"lr: 0.1\n" + b"#" * MAX_BYTES)
    assert "is larger than 250,000 bytes: it can't be a recipe" in message_for(path)


def test_a_pipe_or_an_endless_device_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "child.yaml").write_text("_base_: pipe.yaml\n")
    for path in ("/dev/zero", tmp_path / "pipe.yaml", tmp_path / "child.yaml"):
        with no_hang():
            assert "is a pipe or a device; give a YAML file" in message_for(path)


def test_a_recipe_and_its_bases_share_one_limit_of_bytes_and_values(recipe):
    """50 files of 0.8 MB took 23 s: a budget of a file each lets them all be read."""
    for i in range(49):
        recipe(f"_base_: b{i + 1}.yaml\n" + "#\n" * 100_000, f"b{i}.yaml")
        recipe(f"_base_: c{i + 1}.yaml\nmean: [{'1, ' * 4000}1]\n", f"c{i}.yaml")
    text = message_for(recipe("_base_: b0.yaml\n"))
    assert "b1.yaml is larger than 250,000 bytes with the _base_ files before it" in text
    assert "b2.yaml" not in text
    text = message_for(recipe("_base_: c0.yaml\n"))
    assert "c2.yaml:2: more than 10000 values" in text
    assert "c3.yaml" not in text


def test_a_text_longer_than_any_path_is_refused(refused):
    for key in ("data_dir", "model", "ckpt_path", "auto_augment"):
        assert "at most 4,096 characters" in refused(f"{key}: {'m9-' * 2000}x\n")
    assert "at most 4,096 characters" in refused("model_args: {a: " + "x" * 5000 + "}\n")


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1 or ''}, *a]\n" for i in range(1, 40)),
        "[" * 100_000,
        "{a: " * 60_000,
        "- " * 100_000,
        "a: [" + "1, " * 80_000 + "]\n",
        "".join(f"k{i}: 1\n" for i in range(30_000)),
        "".join(f"kex{i}y: 1\n" for i in range(4990)),
        "? " * 100_000,
        "model: " + "x" * 240_000,
        "lr: " + "9" * 240_000,
        "color_jitter: '" + "1 " * 120_000 + "'",
        "%A b\n" * 49_000 + "---\nlr: x\n",
        "a: &a [*a]\n",
        "lr: !!int " + "9" * 200_000,
    ],
    ids=[
        *("aliases", "brackets", "braces", "dashes", "list", "keys", "misspelt keys", "questions"),
        *("text", "digits", "numbers", "directives", "cycle", "integer"),
    ],
)
def test_a_yaml_bomb_gives_a_short_message_after_little_work(text, tmp_path):
    path = tmp_path / "bomb.yaml"
    path.write_text(text)
    messages = []
    assert calls_of(lambda: messages.append(message_for(path))) < 5_000_000  # some 1 s
    assert len(messages[0]) < 20_000


def test_too_many_values_are_refused(tmp_path):
    path = tmp_path / "many.yaml"
    path.write_text("mean: [" + "1, " * (MAX_NODES + 1) + "]")
    assert f"{path}:1: more than {MAX_NODES} values" in message_for(path)


def test_a_recipe_overrides_its_base(recipe):
    recipe("lr: 0.1\nepoch_size: 10\nmodel: resnet18\n", "base.yaml")
    path = recipe("_base_: base.yaml\nlr: 0.2\n", "child.yaml")
    config = load_config(["-c", path, "--model", "resnet34"])
    assert config.scheduler.lr == 0.2
    assert config.train.epoch_size == 10
    assert config.model.model == "resnet34"
    assert config.explicit == {"lr", "epoch_size", "model"}


def test_bases_are_relative_to_their_file_nested_and_listed_in_order(recipe, monkeypatch, tmp_path):
    recipe("lr: 0.1\nseed: 1\nepoch_size: 5\n", "common/root.yaml")
    recipe("_base_: root.yaml\nseed: 2\n", "common/one.yaml")
    recipe("epoch_size: 6\nlog_interval: 7\n", "two.yaml")
    path = recipe("_base_: [../common/one.yaml, ../two.yaml]\nlog_interval: 8\n", "runs/a.yaml")
    monkeypatch.chdir(tmp_path / "common")
    config = load_config(["-c", os.path.relpath(path)])
    assert (config.scheduler.lr, config.system.seed) == (0.1, 2)
    assert (config.train.epoch_size, config.system.log_interval) == (6, 8)


def test_null_leaves_out_the_model_args_of_a_base_and_of_a_recipe(recipe):
    base = recipe("model_args: {ratio: 2}\nghostify: {ratio: 4}\n", "base.yaml")
    child = recipe("_base_: base.yaml\nmodel_args: null\n", "child.yaml")
    assert load_config(["-c", child]).model.model_args == {}
    model = load_config(["-c", base, "--model_args", "null", "--ghostify", "null"]).model
    assert model.model_args == model.ghostify == {}


def test_model_args_of_base_recipe_and_command_line_are_merged_by_name(recipe):
    recipe("model_args: {ratio: 2, act: relu, deep: true}\n", "base.yaml")
    path = recipe("_base_: base.yaml\nmodel_args: {ratio: 3, deep: false}\n", "child.yaml")
    config = load_config(["-c", path, "--model_args", "ratio=4"])
    assert config.model.model_args == {"ratio": 4, "act": "relu", "deep": False}


def test_problems_of_a_base_name_the_base(recipe):
    recipe("ema: true\nlr: fast\n", "base.yaml")
    path = recipe("_base_: base.yaml\n", "child.yaml")
    assert os.path.join(os.path.dirname(path), "base.yaml:2: lr fast isn't legal") in message_for(
        path
    )


def test_a_missing_base_is_reported_with_the_line_that_names_it(recipe):
    path = recipe("lr: 0.1\n_base_: nothing.yaml\n", "child.yaml")
    message = message_for(path)
    assert message.startswith(f"{path}:2: _base_: there is no ")
    assert "nothing.yaml; similar: " in message and "child.yaml" in message


def test_a_circle_of_bases_is_refused_with_its_files(recipe):
    recipe("_base_: two.yaml\n", "one.yaml")
    path = recipe("_base_: one.yaml\n", "two.yaml")
    assert "form a circle: two.yaml -> one.yaml -> two.yaml" in message_for(path)
    itself = recipe("_base_: self.yaml\n", "self.yaml")
    assert "form a circle: self.yaml -> self.yaml" in message_for(itself)


def test_base_that_is_no_file_name_is_refused(recipe):
    for text in ("_base_: {a: b}", "_base_: ''", "_base_: [[a]]", "_base_: ["):
        assert ".yaml:1: " in message_for(recipe(text))


def test_bases_in_a_diamond_are_read_once_and_a_tree_of_them_ends(recipe):
    recipe("lr: 0.5\n", "b0.yaml")
    for i in range(1, 30):
        recipe(f"_base_: [b{i - 1}.yaml, b{i - 1}.yaml]\nseed: {i}\n", f"b{i}.yaml")
    config = load_config(["-c", recipe("_base_: b29.yaml\n")])
    assert (config.scheduler.lr, config.system.seed) == (0.5, 29)
    for i in range(60):
        recipe(f"_base_: c{i + 1}.yaml\n", f"c{i}.yaml")
    assert "more than 50 _base_ files" in message_for(recipe("_base_: c0.yaml\n", "c.yaml"))


def test_reading_a_recipe_never_creates_python_objects(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text(f"model: !!python/object/apply:builtins.open [{tmp_path}/made, w]\n")
    assert read_recipe(str(path)).values
    assert "isn't legal" in message_for(path)
    assert not (tmp_path / "made").exists()
