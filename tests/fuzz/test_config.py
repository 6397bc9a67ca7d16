"""Any YAML document, any command line: a configuration, or one message."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindcv_ghost.config import KEYS, load_config
from mindcv_ghost.errors import ConfigError
from tests.config.test_any_input import lines, names, scalars, words, yamlish

from .outcome import Tally

SHIPPED = [path.read_bytes() for path in sorted(Path(__file__).parents[2].glob("configs/*/*.yaml"))]
JUNK = [b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\t", b"\r", b"&a ", b"*a", b"<<: ", b"!!int "]
JUNK += [
    b"[",
    b"{",
    b"}",
    b"'",
    b'"',
    b"|\n",
    b"? ",
    b"---\n",
    b"%YAML 9\n",
    b"9" * 5000,
    b"- " * 99,
]
JUNK += [b"_base_: /dev/zero\n", b"_base_: .\n", b"_base_: any.yaml\n", b"1e999", b"\xe2\x80\xa8"]
JUNK += [b"!!python/object/apply:os.system [false]", b"\\UFFFFFFFF", b"\xef\xbb\xbf", b"0x", b"-"]


def mutated(seed: int) -> bytes:
    """A recipe of this package with bytes changed, doubled, left out or replaced by junk."""
    draw = random.Random(seed)
    data = bytearray(draw.choice(SHIPPED))
    for _ in range(draw.choice([1, 1, 2, 5, 20])):
        start = draw.randrange(len(data) + 1)
        end = min(len(data), start + draw.choice([0, 1, 1, 4, 40]))
        data[start:end] = draw.choice(
            [
                bytes([draw.randrange(256)]),
                data[start:end] * 2,
                b"",
                draw.choice(JUNK),
                draw.choice(list(KEYS)).encode(),
            ]
        )
    return bytes(data)


values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: "[" + ", ".join(items) + "]"),
        st.lists(st.tuples(names, inner), max_size=3).map(
            lambda pairs: "{" + ", ".join(f"{name}: {item}" for name, item in pairs) + "}"
        ),
    ),
    max_leaves=12,
)
structured = st.lists(st.builds("{}: {}".format, names, values), max_size=12).map("\n".join)
DOCUMENTS = {
    "our keys with any values": structured,
    "lines of keys and junk": st.lists(lines, max_size=12).map("\n".join),
    "YAML's own characters": yamlish,
    "any bytes": st.binary(max_size=400),
    "mutated recipes": st.integers(0, 2**32).map(mutated),
}
options = st.one_of(
    words, st.builds("--{}={}".format, st.sampled_from(list(KEYS)), values), st.binary().map(repr)
)


def load(argv: list[str]) -> object:
    """The configuration; --help and --version are an answer as well."""
    try:
        config = load_config(argv)
        config.to_yaml()
        return config
    except SystemExit as ended:
        assert ended.code == 0
        return "help"
    except ConfigError as error:
        assert len(str(error)) < 30_000
        str(error).encode("utf-8")
        raise


def fuzz(tally: Tally, folder: Path, each: int) -> None:
    limits = settings(
        max_examples=each,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    path = folder / "any.yaml"

    for strategy in DOCUMENTS.values():

        @limits
        @given(document=strategy)
        def read(document):
            raw = document if isinstance(document, bytes) else document.encode(errors="replace")
            path.write_bytes(raw)
            tally.run(lambda _: load(["--config", str(path)]), raw)

        read()

    @limits
    @given(argv=st.lists(options, max_size=8))
    def parse(argv):
        tally.run(load, argv)

    parse()


# A derandomised sample of what `make test-fuzz` runs.
@pytest.mark.parametrize(
    "each", [100, pytest.param(2000, marks=[pytest.mark.fuzz, pytest.mark.timeout(3600)])]
)
def test_any_document_and_any_command_line_end_in_a_configuration_or_a_message(
    each, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    tally = Tally(allowed=(ConfigError,))
    fuzz(tally, tmp_path, each)
    capsys.readouterr()  # --help
    tally.report(capsys, "configuration")
    assert tally.inputs >= 5 * each
    assert tally.taken > tally.inputs // 100
