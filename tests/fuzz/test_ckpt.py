"""Mutated and crafted checkpoints: the numbers that MindSpore reads as well, or one message."""

from __future__ import annotations

import random
import zlib
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from mindspore.train.checkpoint_pb2 import Checkpoint

from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.storage.checkpoint import load_weights
from tests.storage.test_checkpoint import Small
from tests.storage.test_ckpt_format import FOUR, crafted, read_ckpt, with_map

from .outcome import Tally

KINDS = [
    "Float32",
    "Float32",
    "Float16",
    "Int8",
    "Bool",
    "BFloat16",
    "str",
    "Int4",
    "",
    "U",
    "float32",
]
DIMS = [0, 1, 2, 4, 4, -1, 2**31 - 1, 2**31, 2**62, 2**63 - 1, -(2**63)]
NAMES = ["a", "a", "b", "body.weight", "classifier.weight", "classifier.bias", "", "\0", "ü" * 300]


def bases(folder: Path) -> list[bytes]:
    made = [with_map(), crafted(("a", [2, 2], "Float32", FOUR), ("b", [4], "Float32", FOUR))]
    for crc in (False, True):
        path = folder / "base.ckpt"
        ms.save_checkpoint(
            Small(fill=0.5), str(path), append_dict={"epoch_num": 3, "t": "x"}, crc_check=crc
        )
        made += [path.read_bytes()] * 2
    return made


def composed(draw: random.Random) -> bytes:
    """Well-formed protobuf that says anything."""
    entries = []
    for _ in range(draw.choice([1, 2, 3, 20])):
        dims = [draw.choice(DIMS) for _ in range(draw.choice([0, 1, 1, 2, 3, 9]))]
        content = FOUR * draw.choice([0, 1, 1, 1, 4]) + b"\1" * draw.choice([0, 0, 0, 1, 4])
        entries.append((draw.choice(NAMES), dims, draw.choice(KINDS), content))
    return crafted(*entries)


def mutated(base: bytes, draw: random.Random) -> bytes:
    data = bytearray(base)
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        start = draw.randrange(max(1, len(data)))
        kind = draw.randrange(6)
        if kind < 3 and data:
            data[start] = draw.choice([0, 1, 2, 8, 10, 18, 26, 127, 128, 255, draw.randrange(256)])
        elif kind == 3:
            del data[start : start + draw.choice([1, 4, 50])]
        elif kind == 4:
            data[start:start] = data[start : start + draw.choice([1, 20, 200])] * draw.choice(
                [1, 50]
            )
        else:
            del data[start:]
            data += b"\0"
    if draw.random() < 0.1:
        data += b"crc_num" + zlib.crc32(data).to_bytes(10, "big")
    return bytes(data)


def assert_mindspore_reads_the_same(path: Path, ours: dict[str, np.ndarray]) -> None:
    message = Checkpoint()
    message.ParseFromString(path.read_bytes().partition(b"crc_num")[0])
    if any(value.HasField("maptensor") for value in message.value):
        return  # MindSpore reads the maps, and refuses what is wrong in them; here they don't count
    try:
        theirs = ms.load_checkpoint(str(path))
    except ValueError as error:
        raise AssertionError(f"{path.read_bytes()!r} isn't taken by MindSpore") from error
    theirs = {name: value for name, value in theirs.items() if isinstance(value, Tensor)}
    assert list(theirs) == list(ours)
    for name, value in theirs.items():
        array = value.float().asnumpy() if value.dtype == ms.bfloat16 else value.asnumpy()
        assert (array.shape, array.dtype) == (ours[name].shape, ours[name].dtype)
        assert array.tobytes() == ours[name].tobytes()


@pytest.mark.parametrize(
    "count", [1000, pytest.param(12_000, marks=[pytest.mark.fuzz, pytest.mark.timeout(3600)])]
)
def test_mutated_checkpoints_give_what_mindspore_reads_or_are_refused(count, tmp_path, capsys):
    draw, originals, network = random.Random(17), bases(tmp_path), Small()
    path, tally, loads = tmp_path / "a.ckpt", Tally((CheckpointError,)), Tally((CheckpointError,))

    def read(content: bytes) -> dict:
        path.write_bytes(content)
        return read_ckpt(path, 2**20)

    for number in range(count):
        content = composed(draw) if number % 3 == 0 else mutated(draw.choice(originals), draw)
        ours = tally.run(read, content)
        if ours is not None:
            assert_mindspore_reads_the_same(path, ours)
        loads.run(lambda _: load_weights(network, path), content)
    tally.report(capsys, "checkpoints, our parser against MindSpore")
    loads.report(capsys, "checkpoints, load_weights")
    assert tally.taken > count // 50
