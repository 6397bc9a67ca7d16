"""A state is read back bit for bit, or refused."""

from __future__ import annotations

import json
import struct
import tracemalloc

import numpy as np
import pytest

from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.storage.training_state import DamagedFileError, open_state, write_state

ARRAYS = {
    "weight": np.array([[0.1, -0.0, np.float32(1e-45)], [1, 2, 3]], np.float32),
    "step": np.array(7, np.int32),
    "half": np.array([0.5], np.float16),
    "nothing": np.zeros((0, 3), np.float32),
}
EXPECTED = {name: (values.shape, values.dtype) for name, values in ARRAYS.items()}
FACTS = {"sum": 0.1 + 0.2, "names": ["ant", "bee"], "rows": 'a,b\n"sha256":"' + "0" * 64 + '"\n'}


@pytest.fixture
def path(tmp_path):
    write_state(tmp_path / "a.safetensors", ARRAYS, FACTS)
    return tmp_path / "a.safetensors"


def test_what_is_written_is_read_bit_for_bit(path):
    state = open_state(path)
    assert state.facts == FACTS
    read = state.read(EXPECTED)
    assert {n: v.tobytes() for n, v in read.items()} == {n: v.tobytes() for n, v in ARRAYS.items()}
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]


def test_every_single_flipped_bit_is_detected(path):
    good = path.read_bytes()
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(DamagedFileError):
            open_state(path)


def test_every_truncation_is_detected(path):
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(DamagedFileError, match="a.safetensors"):
            open_state(path)


def test_an_appended_byte_is_detected(path):
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DamagedFileError):
        open_state(path)


def forged(header: object, data: bytes = b"") -> bytes:
    """A file with a valid checksum around any header."""
    import hashlib

    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text = text.replace(b'"sha256": "', b'"sha256":"')
    whole = struct.pack("<Q", len(text)) + text + data
    return whole.replace(b"0" * 64, hashlib.sha256(whole).hexdigest().encode(), 1)


METADATA = {
    "format": "mindcv_ghost training state",
    "schema": "1",
    "sha256": "0" * 64,
    "facts": "{}",
}


def claim(dtype: object, shape: list, *offsets: int) -> dict:
    entry = {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}
    return {"__metadata__": METADATA, "weight": entry}


@pytest.mark.parametrize(
    "header",
    [
        claim("F32", [1 << 40], 0, 1 << 42),
        claim("F32", [2, 3], 0, 8),
        claim("object", [2], 0, 8),
        claim("F32", [-1], 8, 0),
        {"__metadata__": METADATA, "weight": "junk"},
        {"__metadata__": {**METADATA, "facts": "[" * 100000}},
        {"__metadata__": {**METADATA, "facts": "17"}},
        {"__metadata__": {**METADATA, "format": "pt"}},
        {"__metadata__": [METADATA]},
        b'{"__metadata__":{"sha256":"' + b"0" * 64 + b'"},"a":' + b"[" * 100000,
        b'{"sha256":"' + b"0" * 64 + b'"',
        b"[]",
    ],
)
def test_a_malicious_file_is_refused_and_costs_little_memory(tmp_path, header):
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(forged(header, bytes(24)))
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="hostile.safetensors"):
        open_state(path).read(EXPECTED)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_a_file_of_128_gigabytes_is_refused_unread(tmp_path):
    path = tmp_path / "giant.safetensors"
    with open(path, "wb") as file:
        file.truncate(1 << 37)
    with pytest.raises(DamagedFileError, match="64 GiB"):
        open_state(path)


def test_a_folder_or_a_later_layout_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="is not a file"):
        open_state(tmp_path)
    path = tmp_path / "later.safetensors"
    path.write_bytes(forged({"__metadata__": {**METADATA, "schema": "9"}}))
    with pytest.raises(CheckpointError, match="layout '9'.*the version that wrote it"):
        open_state(path)


def test_another_networks_arrays_are_listed(path):
    other = {**EXPECTED, "weight": ((4, 4), np.dtype(np.float32)), "bias": ((4,), np.dtype("f4"))}
    del other["half"]
    with pytest.raises(CheckpointError) as caught:
        open_state(path).read(other)
    text = str(caught.value)
    assert "1 missing in the file:\n    bias" in text
    assert "1 unexpected in the file:\n    half" in text
    assert "weight: file (2, 3), expected (4, 4)" in text
    with pytest.raises(CheckpointError, match="step is int32"):
        open_state(path).read({**EXPECTED, "step": ((), np.dtype(np.int64))})
