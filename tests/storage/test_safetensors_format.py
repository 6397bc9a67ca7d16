"""``.safetensors`` of any origin give the numbers that are in them, or an error."""

from __future__ import annotations

import json
import random
import resource

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor
from ml_dtypes import bfloat16
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.storage.checkpoint import load_weights
from mindcv_ghost.storage.safetensors_format import parse_safetensors
from mindcv_ghost.storage.training_state import write_state
from mindcv_ghost.storage.untrusted import UnreadableFile
from mindcv_ghost.storage.weights_file import read_weights_file
from tests.helpers.effort import no_hang

from .test_checkpoint import Small, parameters

LARGEST = 2**30
FOUR = np.arange(4, dtype=np.float32).tobytes()


def crafted(header: object, content: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + content


def entry(dtype="F32", shape=(4,), begin=0, end=16, **more) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end], **more}


@pytest.mark.parametrize("crc", [False, True])
def test_mindspores_files_are_loaded_bit_for_bit(tmp_path, crc):
    path = tmp_path / "a.safetensors"
    ms.save_checkpoint(Small(fill=0.1), str(path), format="safetensors", crc_check=crc)
    assert read_weights_file(path, LARGEST).metadata["format"] == "ms"
    network = Small()
    assert load_weights(network, path).loaded == 3
    np.testing.assert_array_equal(network.body.weight.asnumpy(), np.full((4, 4), 0.1, np.float32))


def test_the_content_decides_not_the_suffix(tmp_path):
    ms.save_checkpoint(Small(fill=0.1), str(tmp_path / "a.safetensors"), format="safetensors")
    (tmp_path / "a.safetensors").rename(tmp_path / "a.ckpt")
    assert load_weights(Small(), tmp_path / "a.ckpt").loaded == 3


def test_a_changed_byte_is_found_by_mindspores_checksum(tmp_path):
    path = tmp_path / "a.safetensors"
    counter = [{"name": "step", "data": Tensor(np.array([3], np.int32))}]
    entries = [{"name": p.name, "data": p} for p in parameters(Small(fill=0.1))] + counter
    ms.save_checkpoint(entries, str(path), format="safetensors", crc_check=True)
    data = path.read_bytes()
    assert "step" in parse_safetensors(data)[0]
    with pytest.raises(UnreadableFile, match="checksum"):
        parse_safetensors(data[:-1] + bytes([data[-1] ^ 1]))


def test_all_types_are_those_of_the_safetensors_library():
    draw = np.random.default_rng(0)
    kinds = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]
    arrays = {k: draw.normal(0, 50, (2, 3)).astype(k) for k in kinds}
    arrays["bool"] = np.array([True, False])
    arrays["scalar"] = np.array(2.5, np.float32)
    arrays["bf16"] = np.array([1.0, -2.5, 3e38, np.inf], bfloat16)
    data = save(arrays, {"format": "pt"})
    found, metadata = parse_safetensors(data)
    assert metadata == {"format": "pt"}
    for name, array in arrays.items():
        expected = array.astype(np.float32) if name == "bf16" else array
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)
        assert not found[name].flags.writeable


def test_mindspores_bfloat16_keeps_its_numbers(tmp_path):
    path = tmp_path / "a.safetensors"
    value = Tensor(np.array([1.0, -2.5, 3e38], np.float32), ms.bfloat16)
    ms.save_checkpoint([{"name": "a", "data": value}], str(path), format="safetensors")
    array = read_weights_file(path, LARGEST).arrays["a"]
    np.testing.assert_array_equal(array, value.float().asnumpy())


ENTRY = json.dumps(entry()).encode()
BAD = {
    "a header of 2**63 bytes": (crafted({"a": entry()}, FOUR, 2**63), "its header is cut"),
    "a header of 16 MB and more": (crafted(b"{" + b" " * (1 << 24) + b"}"), "more than 16,777,216"),
    "a header that is cut": (crafted({"a": entry()})[:20], "its header is cut"),
    "seven bytes": (b"1234567", "its header is cut"),
    "no object": (crafted(b"[1]"), "no JSON object"),
    "no JSON": (crafted(b"{\xff"), "no JSON object"),
    "nested lists": (crafted(b'{"a":' + b"[" * 100_000), "no JSON object"),
    "a number of a million digits": (crafted(b'{"a":' + b"1" * 10**6 + b"}"), "the number 1111"),
    "a fraction": (crafted(b'{"a":1.5}'), "the number 1.5"),
    "NaN": (crafted(b'{"a":NaN}'), "the number NaN"),
    "a name twice": (crafted(b'{"a":%(a)b,"a":%(a)b}' % {b"a": ENTRY}, FOUR), "a name twice"),
    "no tensor": (crafted({"__metadata__": {"a": "b"}}), "no tensor is in it"),
    "metadata of numbers": (crafted({"__metadata__": {"a": 1}}), "metadata aren't texts"),
    "an entry of another kind": (crafted({"a": [1]}), "isn't described"),
    "an unknown key": (crafted({"a": entry(x=1)}, FOUR), "isn't described"),
    "an unknown type": (crafted({"a": entry("F31")}, FOUR), "the type 'F31'; legal are"),
    "eight-bit floats": (crafted({"a": entry("F8_E4M3", (16,))}, FOUR), "the type 'F8_E4M3'"),
    "a type that is a list": (crafted({"a": entry(["F32"])}, FOUR), "the type"),
    "a negative dimension": (crafted({"a": entry(shape=(-4,))}, FOUR), "no legal shape"),
    "a dimension of true": (crafted({"a": entry(shape=(True,))}, FOUR), "no legal shape"),
    "negative offsets": (crafted({"a": entry(begin=-16, end=0)}, FOUR), "no legal shape"),
    "three offsets": (
        crafted({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8, 16]}}, FOUR),
        "no legal shape or offsets",
    ),
    "100 dimensions": (crafted({"a": entry(shape=(1,) * 100, end=4)}, FOUR[:4]), "more than 8 dim"),
    "2**40 numbers": (crafted({"a": entry(shape=(2**40,))}, FOUR), "has the shape"),
    "more numbers than bytes": (crafted({"a": entry(shape=(2**30,))}, FOUR), "needs .* and has 16"),
    "no numbers": (crafted({"a": entry(shape=(0,), end=0)}), "holds nothing"),
    "overlapping": (crafted({"a": entry(), "b": entry(begin=8, end=24)}, FOUR * 2), "overlap"),
    "the same bytes twice": (crafted({"a": entry(), "b": entry()}, FOUR), "overlap"),
    "a gap": (crafted({"a": entry(begin=4, end=20)}, FOUR + FOUR), "gaps"),
    "bytes after the last": (crafted({"a": entry()}, FOUR + b"x"), "need 16 bytes, it has 17"),
    "bytes that aren't there": (crafted({"a": entry()}, FOUR[:8]), "need 16 bytes, it has 8"),
    "a Bool of 7": (crafted({"a": entry("BOOL", (2,), 0, 2)}, b"\1\7"), "other bytes than 0"),
    "half of a letter": (crafted(b'{"\\ud800":' + ENTRY + b"}", FOUR), "isn't UTF-8 text"),
    "a long name": (crafted({"a" * 2000: entry()}, FOUR), "a name of 2,000 bytes"),
    "100,001 entries": (
        crafted({f"a{n}": entry(shape=(1,), begin=n, end=n) for n in range(100_001)}),
        "more than 100,000 entries",
    ),
    "nothing": (b"", "it is empty"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_hostile_file_is_refused_with_its_name_and_the_reason(case, tmp_path):
    content, reason = BAD[case]
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with no_hang(), pytest.raises(CheckpointError, match=reason) as caught:
        read_weights_file(path, LARGEST)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 150_000  # kB
    assert str(caught.value).startswith(f"{path} ({len(content)} bytes) can't be read")
    assert len(str(caught.value)) < 700


def test_mutated_files_give_what_the_library_reads_or_are_refused():
    draw, taken = random.Random(3), 0
    base = save({"a": np.arange(4, dtype=np.float32), "b": np.ones((2, 2), np.int8)}, {"x": "y"})
    for _ in range(3000):
        data = bytearray(base)
        for _ in range(draw.choice([1, 1, 2])):
            data[draw.randrange(len(data))] = draw.choice([*b'0123456789[]{},":FI', *range(256)])
        try:
            ours = parse_safetensors(bytes(data))[0]
        except UnreadableFile:
            continue
        try:
            theirs = load(bytes(data))
        except SafetensorError as error:
            raise AssertionError(f"{bytes(data)!r} isn't taken by safetensors") from error
        taken += 1
        assert ours.keys() == theirs.keys()
        for name, array in theirs.items():
            assert (ours[name].dtype, ours[name].shape) == (array.dtype, array.shape)
            assert ours[name].tobytes() == array.tobytes()
    assert taken > 200


def write_set(folder, index: str = "param_name_map.json", wrapped: bool = True) -> dict:
    """Two files and an index, as ``mindspore.unified_safetensors`` writes them."""
    arrays = {p.name: p.asnumpy() for p in parameters(Small(fill=0.1))}
    places = {}
    for n, name in enumerate(arrays):
        (folder / f"part{n}.safetensors").write_bytes(save({name: arrays[name]}, {"format": "ms"}))
        places[name] = f"part{n}.safetensors"
    (folder / index).write_text(json.dumps({"weight_map": places} if wrapped else places))
    return places


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("index", ["param_name_map.json", "model.safetensors.index.json"])
def test_a_set_of_files_is_loaded_by_its_folder_or_its_index(tmp_path, index, wrapped):
    write_set(tmp_path, index, wrapped)
    for path in (tmp_path, tmp_path / index):
        network = Small()
        assert load_weights(network, path).loaded == 3
        assert float(network.body.weight.asnumpy().min()) == np.float32(0.1)


def test_a_set_that_isnt_whole_is_refused(tmp_path):
    places = write_set(tmp_path)
    index = tmp_path / "param_name_map.json"
    (tmp_path / "part1.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint .*part1.safetensors"):
        load_weights(Small(), tmp_path)
    index.write_text(
        json.dumps({"weight_map": {**places, "classifier.weight": "part0.safetensors"}})
    )
    with pytest.raises(CheckpointError, match="part0.safetensors doesn't hold classifier.weight"):
        load_weights(Small(), tmp_path)


@pytest.mark.parametrize("file", ["../part0.safetensors", "/etc/passwd", "a/b.safetensors", "a", 3])
def test_an_index_names_files_of_its_own_folder_alone(tmp_path, file):
    (tmp_path / "param_name_map.json").write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(CheckpointError, match="isn't an index of weights"):
        load_weights(Small(), tmp_path)


def test_folders_without_one_index_say_what_to_give(tmp_path):
    (tmp_path / "rank_0").mkdir()
    with pytest.raises(CheckpointError, match="a folder for each rank.*unified_safetensors"):
        load_weights(Small(), tmp_path)
    part = tmp_path / "rank_0" / "net.safetensors"
    ms.save_checkpoint(parameters(Small())[:1], str(part), format="safetensors")
    with pytest.raises(CheckpointError, match="one rank's part of a distributed training"):
        load_weights(Small(), part)
    with pytest.raises(CheckpointError, match="is a folder; give a .ckpt or .safetensors"):
        load_weights(Small(), tmp_path / "rank_0")
    write_set(tmp_path)
    write_set(tmp_path, "model.safetensors.index.json")
    with pytest.raises(CheckpointError, match="several indexes"):
        load_weights(Small(), tmp_path)


def test_the_state_of_a_run_is_named(tmp_path):
    path = tmp_path / "000001_epoch1_step0.safetensors"
    write_state(path, {"weights/a": np.zeros(3, np.float32)}, {})
    with pytest.raises(CheckpointError, match="state of a run, for train.py --resume"):
        load_weights(Small(), path)
    # Also where its names fit under a prefix.
    arrays = {f"weights/{p.name}": p.asnumpy() for p in parameters(Small())}
    write_state(path, arrays, {})
    with pytest.raises(CheckpointError, match="state of a run, for train.py --resume"):
        load_weights(Small(), path)


def test_integers_arent_taken_for_weights(tmp_path):
    quantised = [
        Parameter(Tensor(np.zeros(p.shape, np.int8)), name=p.name) for p in parameters(Small())
    ]
    path = tmp_path / "a.safetensors"
    ms.save_checkpoint(quantised, str(path), format="safetensors")
    with pytest.raises(CheckpointError, match="quantised or damaged"):
        load_weights(Small(), path)
