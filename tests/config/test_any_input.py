"""Any document and any command line gives a configuration or a ConfigError, never a traceback."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindcv_ghost.config import KEYS, load_config
from mindcv_ghost.errors import ConfigError

QUICK = settings(
    max_examples=150,
    deadline=None,
    database=None,  # leaves no folder behind
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
names = st.sampled_from([*KEYS, "_base_", "config", "filter_bias_and_bn", "weigth_decay", "<<"])
scalars = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["true", "no", "null", "~", ".nan", "-.inf", "1e-5", "''", '"x"', "random"]),
    st.sampled_from(["[1, 2]", "[0.08, 1.0]", "{a: 1}", "[", "*a", "&a x", "!!int x", "|", ">-"]),
    st.sampled_from(["!!float", "!!bool q", "!!timestamp x", "2001-99-99", "0b_", "1:90", "0o9"]),
    st.text(max_size=8),
)
lines = st.one_of(
    st.builds("{}: {}".format, names, scalars),
    st.builds("{}:{}".format, st.text(max_size=6), scalars),
    st.text(max_size=20),
)
yamlish = st.text(alphabet="abl r:-[]{}?&*!|>'\"%#@`,\n\t 01.e_<~\\=x", max_size=80)
words = st.one_of(
    st.sampled_from([f"--{key}" for key in KEYS]),
    st.builds("--{}={}".format, st.sampled_from(list(KEYS)), scalars),
    scalars,
    st.text(alphabet=st.characters(), max_size=8),
    st.sampled_from(["-1", "--", "-", "-c", "--config", "--conf", "--ema", "ratio=4", "=", "0.5"]),
)


def outcome(argv: list[str]):
    """Return the configuration, or the message it was refused with."""
    try:
        return load_config(argv)
    except ConfigError as error:
        assert str(error).strip()
        str(error).encode("utf-8")
        return str(error)
    except SystemExit as ended:
        assert ended.code == 0
        return "help"


def check(argv: list[str], folder) -> None:
    config = outcome(argv)
    if isinstance(config, str):
        return
    written = folder / "written.yaml"
    written.write_text(config.to_yaml(), encoding="utf-8")
    again = load_config(["--config", str(written)])
    assert again == config
    assert again.to_yaml() == config.to_yaml()


@QUICK
@given(text=st.lists(lines, max_size=6).map("\n".join))
def test_any_lines_of_keys_and_values(text, tmp_path):
    path = tmp_path / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    check(["--config", str(path)], tmp_path)


@QUICK
@given(text=yamlish)
def test_any_document_of_yamls_own_characters(text, tmp_path):
    path = tmp_path / "any.yaml"
    path.write_text(text, encoding="utf-8")
    check(["--config", str(path)], tmp_path)


@QUICK
@given(raw=st.binary(max_size=200))
def test_any_bytes(raw, tmp_path):
    path = tmp_path / "any.yaml"
    path.write_bytes(raw)
    check(["--config", str(path)], tmp_path)


@QUICK
@given(argv=st.lists(words, max_size=6))
def test_any_command_line(argv, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check(argv, tmp_path)
    capsys.readouterr()


@QUICK
@given(key=st.sampled_from(list(KEYS)), text=scalars)
def test_any_value_of_a_key_means_the_same_in_recipe_and_option(key, text, tmp_path):
    """Checked where both accept it: quotes, comments, integers and null are YAML's alone."""
    path = tmp_path / "any.yaml"
    path.write_bytes(f"{key}: {text}\n".encode("utf-8", "surrogatepass"))
    by_file, by_option = outcome(["--config", str(path)]), outcome([f"--{key}={text}"])
    plain = text.isascii() and text.isalnum() and key != "model_args"
    if plain and not isinstance(by_file, str):
        assert by_file == by_option


@pytest.mark.parametrize("name", sorted(KEYS))
def test_odd_values_of_any_key_give_no_traceback(name, tmp_path):
    path = tmp_path / "any.yaml"
    for text in ("", "null", "[]", "{}", "[[]]", "[{}]", "{a: [b]}", "''", "0", "-1", "1e400", "x"):
        path.write_text(f"{name}: {text}\n", encoding="utf-8")
        outcome(["--config", str(path)])
        outcome([f"--{name}={text}"])
        outcome([f"--{name}", text, text])
