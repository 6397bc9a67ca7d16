"""A checkpoint of any origin gives the numbers that are in it, or an error."""

from __future__ import annotations

import os
import resource

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from mindspore.train import serialization
from mindspore.train.checkpoint_pb2 import Checkpoint

from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.storage import untrusted
from mindcv_ghost.storage.checkpoint import load_weights
from mindcv_ghost.storage.weights_file import read_weights_file
from tests.helpers.effort import no_hang

from .test_checkpoint import Small, parameters

LARGEST = 2**30
FOUR = np.arange(4, dtype=np.float32).tobytes()


def read_ckpt(path, largest_bytes: int) -> dict[str, np.ndarray]:
    return read_weights_file(path, largest_bytes).arrays


def crafted(*entries: tuple) -> bytes:
    """A checkpoint of (name, dims, type, content), in MindSpore's own message class."""
    message = Checkpoint()
    for name, dims, kind, content in entries:
        value = message.value.add()
        value.tag = name
        value.tensor.dims.extend(dims)
        value.tensor.tensor_type = kind
        value.tensor.tensor_content = content
    return message.SerializeToString()


def with_map(tensors: int = 3) -> bytes:
    message = Checkpoint()
    value = message.value.add()
    value.tag = "table"
    for _ in range(tensors):
        tensor = value.maptensor.tensor.add()
        tensor.dims.append(4)
        tensor.tensor_type = "float32"
        tensor.tensor_content = FOUR
    return message.SerializeToString() + crafted(("a", [4], "Float32", FOUR))


def entries_of_all_types() -> list[dict]:
    draw = np.random.default_rng(0)
    values = {
        f"k{k}.{kind}": Tensor(draw.normal(0, 50, (2, 3, 4)).astype(np.float32), kind)
        for k, kind in enumerate(
            (ms.float16, ms.float32, ms.float64, ms.int8, ms.int16, ms.int32, ms.int64, ms.uint8)
        )
    }
    values["bool"] = Tensor(np.array([True, False, True]))
    values["scalar"] = Tensor(0.1, ms.float32)
    values["special"] = Tensor(np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32))
    return [{"name": name, "data": value} for name, value in values.items()]


def assert_as_mindspore_reads(path) -> int:
    theirs = ms.load_checkpoint(str(path))
    theirs = {k: v.asnumpy() for k, v in theirs.items() if isinstance(v, Tensor)}
    ours = read_ckpt(path, LARGEST)
    assert list(ours) == list(theirs)
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype and ours[name].shape == array.shape
        assert ours[name].tobytes() == array.tobytes()
    return len(ours)


@pytest.mark.parametrize("crc", [False, True])
def test_mindspores_files_of_all_types_are_read_bit_for_bit(tmp_path, crc):
    path = tmp_path / "a.ckpt"
    extra = {"epoch_num": 3, "lr": 0.1, "note": "text is skipped", "flag": True}
    ms.save_checkpoint(entries_of_all_types(), str(path), append_dict=extra, crc_check=crc)
    assert assert_as_mindspore_reads(path) == 14  # 11 and three numbers of append_dict


def test_a_parameter_in_slices_is_joined_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "SLICE_SIZE", 1)  # 1 kB instead of 512 MB
    path = tmp_path / "a.ckpt"
    large = np.random.default_rng(1).normal(size=(7, 11, 13)).astype(np.float32)
    entries = [{"name": n, "data": Tensor(large + k)} for k, n in enumerate("abc")]
    ms.save_checkpoint(entries, str(path))
    assert path.read_bytes().count(b"Float32") == 3 * 4
    assert assert_as_mindspore_reads(path) == 3


def test_a_networks_own_files_are_read_bit_for_bit(tmp_path):
    import mindcv

    path = tmp_path / "a.ckpt"
    ms.save_checkpoint(mindcv.create_model("resnet18", num_classes=3), str(path))
    assert assert_as_mindspore_reads(path) == 102


def test_map_parameters_are_skipped(tmp_path):
    path = tmp_path / "a.ckpt"
    path.write_bytes(with_map())
    assert list(read_ckpt(path, LARGEST)) == ["a"]


def test_bfloat16_keeps_its_numbers(tmp_path):
    path = tmp_path / "a.ckpt"
    value = Tensor(np.array([1.0, -2.5, 3e38, 1e-40, np.inf], np.float32), ms.bfloat16)
    ms.save_checkpoint([{"name": "a", "data": value}], str(path))
    array = read_ckpt(path, LARGEST)["a"]
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, value.float().asnumpy())


def test_a_scalar_of_an_older_release_has_the_dimension_0(tmp_path):
    path = tmp_path / "a.ckpt"
    path.write_bytes(crafted(("a", [0], "Float32", FOUR[4:8])))
    assert assert_as_mindspore_reads(path) == 1


BAD = {
    "2**31 - 1 numbers in 28 bytes": (
        crafted(("a", [2**31 - 1], "Float32", FOUR[:4])),
        r"'a' of Float32 \[2147483647\] needs 8,589,934,588 bytes and has 4",
    ),
    "a product beyond 64 bits": (
        crafted(("a", [2**31 - 1] * 8, "Float32", FOUR)),
        "needs .* bytes and has 16",
    ),
    "a dimension beyond 32 bits": (crafted(("a", [2**40, 0], "Float32", b"")), "has the shape"),
    "negative dimensions": (crafted(("a", [-2, -2], "Float32", FOUR)), r"the shape \[-2, -2\]"),
    "half of the bytes": (crafted(("a", [4], "Float32", FOUR[:8])), "needs 16 bytes and has 8"),
    "bytes too many": (crafted(("a", [2], "Float32", FOUR)), "needs 8 bytes and has 16"),
    "a name twice in a row": (
        crafted(*[("a", [4], "Float32", FOUR)] * 2),
        "needs 16 bytes and has 32",
    ),
    "a name twice": (
        crafted(*[(name, [4], "Float32", FOUR) for name in "aba"]),
        "two parameters 'a'",
    ),
    "slices of two types": (
        crafted(("a", [4], "Float32", FOUR[:8]), ("a", [4], "Int32", FOUR[8:])),
        "slices of 'a' differ",
    ),
    "100 dimensions": (crafted(("a", [1] * 100, "Float32", FOUR[:4])), "more than 8 dimensions"),
    "no numbers": (crafted(("a", [0], "Float32", b"")), "holds nothing"),
    "an unknown type": (crafted(("a", [4], "Float31", FOUR)), "the type 'Float31'; legal are"),
    "objects": (crafted(("a", [4], "object", FOUR)), "the type 'object'; legal are"),
    "4-bit integers": (crafted(("a", [1], "Int4", b"\x12")), "the type 'Int4'"),
    "a Bool of 7": (crafted(("a", [2], "Bool", b"\x01\x07")), "other bytes than 0 and 1"),
    "texts alone": (crafted(("a", [0], "str", "x".encode("utf-32-le"))), "no tensor is in it"),
    "a text that is none": (crafted(("a", [0], "str", b"x\0\0\x08")), "'a' is no text"),
    "a map with a tensor cut off": (b"\x0a\x08\x0a\x01a\x1a\x03\x0a\x01\x08", "of another kind"),
    "an empty name": (crafted(("", [4], "Float32", FOUR)), "no name"),
    "a name of 2,000 letters": (crafted(("a" * 2000, [4], "Float32", FOUR)), "more than 1000"),
    "a name that isn't UTF-8": (
        crafted(("ab", [4], "Float32", FOUR)).replace(b"ab", b"\xff\xfe"),
        "a name isn't UTF-8",
    ),
    "empty entries": (b"\x0a\x00" * 200_000, "no name"),
    "maps and maps": (b"\x0a\x05\x0a\x01a\x1a\x00" * 200_000, "no tensor|100,000 entries"),
    "a map of many tensors": (with_map(100_001), "100,000 entries"),
    "nested groups": (b"\x0b" * 100_000, "of another kind"),
    "a length beyond the file": (b"\x0a\xff\xff\xff\xff\x0f", "of another kind"),
    "a number without an end": (b"\x0a" + b"\xff" * 100, "of another kind"),
    "an unknown field": (b"\x22\x00" + crafted(("a", [4], "Float32", FOUR)), "is no parameter"),
    "a wrong checksum": (
        crafted(("a", [4], "Float32", FOUR)) + b"crc_num" + b"\0" * 10,
        "checksum",
    ),
    "a PyTorch file": (b"PK\x03\x04" + b"\0" * 100, "PyTorch"),
    "a pickle": (b"\x80\x02}q\x00.", "pickle"),
    "nothing": (b"", "it is empty"),
    "text": (b"weights, honestly", "of another kind"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_hostile_file_is_refused_with_its_name_and_the_reason(case, tmp_path):
    content, reason = BAD[case]
    path = tmp_path / "a.ckpt"
    path.write_bytes(content)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with no_hang(), pytest.raises(CheckpointError, match=reason) as caught:
        read_ckpt(path, LARGEST)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 50_000  # kB
    assert str(caught.value).startswith(f"{path} ({len(content)} bytes) can't be read")
    assert len(str(caught.value)) < 700


def test_every_cut_and_every_changed_byte_is_detected(tmp_path):
    whole = crafted(("a", [2, 2], "Float32", FOUR), ("b", [4], "Float32", FOUR))
    path = tmp_path / "a.ckpt"
    first = len(crafted(("a", [2, 2], "Float32", FOUR)))
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        if end == first:  # a whole file of one parameter; load_weights then misses the other
            assert list(read_ckpt(path, LARGEST)) == ["a"]
            continue
        with pytest.raises(CheckpointError):
            read_ckpt(path, LARGEST)
    import zlib

    whole += b"crc_num" + zlib.crc32(whole).to_bytes(10, "big")
    path.write_bytes(whole)
    assert len(read_ckpt(path, LARGEST)) == 2
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CheckpointError):
            read_ckpt(path, LARGEST)


def test_the_error_says_that_a_file_is_encrypted(tmp_path):
    for mode in ("AES-GCM", "AES-CBC"):
        path = tmp_path / f"{mode}.ckpt"
        ms.save_checkpoint(Small(), str(path), enc_key=b"0123456789abcdef", enc_mode=mode)
        with pytest.raises(CheckpointError, match="it is encrypted"):
            read_ckpt(path, LARGEST)


def test_a_file_of_10_gigabytes_is_refused_unread(tmp_path):
    path = tmp_path / "a.ckpt"
    with open(path, "wb") as file:
        file.truncate(10 * 2**30)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="larger than 2,147,483,648 bytes"):
        load_weights(Small(), path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 50_000  # kB


def test_a_pipe_or_a_device_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.ckpt")
    for path in (tmp_path / "a.ckpt", "/dev/zero"):
        with no_hang(), pytest.raises(CheckpointError, match="isn't a regular file"):
            load_weights(Small(), path)


def test_integers_are_refused_as_weights(tmp_path):
    path = tmp_path / "a.ckpt"
    entries = [{"name": p.name, "data": Tensor(p.asnumpy(), ms.int8)} for p in parameters(Small())]
    ms.save_checkpoint(entries, str(path))
    with pytest.raises(CheckpointError, match="body.weight as int8, the network has Float32"):
        load_weights(Small(), path)


def test_loaded_weights_can_be_changed_without_changing_what_was_read(tmp_path):
    path = tmp_path / "a.ckpt"
    ms.save_checkpoint(Small(fill=1.0), str(path))
    network = Small()
    load_weights(network, path)
    ms.ops.assign_add(network.body.weight, Tensor(np.ones((4, 4), np.float32)))
    assert float(network.body.weight.asnumpy().max()) == 2.0
    assert not read_ckpt(path, LARGEST)["body.weight"].flags.writeable


def test_mindspore_is_given_aligned_arrays_wherever_they_lie_in_the_file(tmp_path, monkeypatch):
    # MindSpore 2.7.1 refuses others: "Cannot construct Tensor because of unsupported data type".
    path, network, given = tmp_path / "a.ckpt", Small(), []
    ms.save_checkpoint(Small(fill=1.0), str(path))
    assert not all(array.flags.aligned for array in read_ckpt(path, LARGEST).values())

    def recorded(array, *args):
        given.append(array.flags.aligned)
        return Tensor(array, *args)

    monkeypatch.setattr(ms, "Tensor", recorded)
    load_weights(network, path)
    assert given == [True] * 3


def test_the_limits_are_as_documented():
    assert (untrusted.MAX_ENTRIES, untrusted.MAX_DIMENSIONS) == (100_000, 8)
