"""MindIR files: sizes that vary, permissions, metadata."""

from __future__ import annotations

import stat

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from mindspore.train import serialization
from mindspore.train.mind_ir_pb2 import ModelProto

from mindcv_ghost.errors import UserError
from mindcv_ghost.export.metadata import add_metadata
from mindcv_ghost.export.mindir_file import write_mindir
from mindcv_ghost.inference.opening import open_runtime
from mindcv_ghost.layers import GhostModule


class Network(nn.Cell):
    """A Ghost module, a mean and a classifier."""

    def __init__(self):
        super().__init__()
        self.ghost = GhostModule(3, 8, kernel_size=3, stride=2)
        self.head = nn.Dense(8, 4)

    def construct(self, x):
        return self.head(self.ghost(x).mean((2, 3)))


@pytest.fixture(scope="module")
def network():
    ms.set_seed(0)
    return Network().set_train(False)


def images(count: int, height: int = 16, width: int = 16) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 3, height, width), np.float32)


def declared(path) -> list[int]:
    model = ModelProto.FromString(path.read_bytes())
    return list(model.graph.input[0].tensor[0].dims)


@pytest.mark.parametrize(
    ("dynamic", "dims"),
    [
        (("batch",), [-1, 3, 16, 16]),
        (("batch", "size"), [-1, 3, -1, -1]),
        ((), [1, 3, 16, 16]),
    ],
)
def test_the_file_declares_what_varies_and_answers_as_the_network(dynamic, dims, network, tmp_path):
    path = tmp_path / "x.mindir"
    assert write_mindir(network, path, image_size=(16, 16), dynamic=dynamic) == [path]
    assert declared(path) == dims
    run = open_runtime(path).logits
    shapes = [(1, 16, 16), (5, 16, 16)] + [(3, 24, 20)] * ("size" in dynamic)
    for shape in shapes:
        batch = images(*shape)
        assert np.allclose(run(batch), network(ms.Tensor(batch)).asnumpy(), atol=1e-6)


def test_everybody_can_read_and_its_owner_replace_the_file(network, tmp_path):
    write_mindir(network, tmp_path / "x.mindir", image_size=(16, 16))
    assert stat.S_IMODE((tmp_path / "x.mindir").stat().st_mode) == 0o644


def test_metadata_is_merged_and_the_graph_is_unchanged(network, tmp_path):
    path = tmp_path / "x.mindir"
    write_mindir(network, path, image_size=(16, 16))
    before, batch = path.read_bytes(), images(2)
    logits = open_runtime(path).logits(batch)
    add_metadata(path, {"model": "x", "class_names": '["ä", "b"]'})
    assert path.read_bytes().startswith(before)
    found = ModelProto.FromString(path.read_bytes()).user_info
    pairs = {e.key: e.value for e in found} if hasattr(found, "add") else dict(found)
    assert pairs == {"model": "x", "class_names": '["ä", "b"]'}
    assert np.array_equal(open_runtime(path).logits(batch), logits)


def test_weights_beyond_a_gigabyte_are_files_of_their_own(network, tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "TOTAL_SAVE", 0)
    written = write_mindir(network, tmp_path / "x.mindir", image_size=(16, 16))
    assert [path.name for path in written] == ["x_graph.mindir", "x_variables"]
    assert written[1].is_dir() and list(written[1].iterdir())
    batch = images(2)
    expected = network(ms.Tensor(batch)).asnumpy()
    assert np.allclose(open_runtime(written[0]).logits(batch), expected, atol=1e-6)


def test_what_mindspore_cannot_export_is_one_message(tmp_path):
    class Other(nn.Cell):
        def construct(self, x):
            raise ValueError("not for graphs")

    with pytest.raises(UserError) as refused:
        write_mindir(Other().set_train(False), tmp_path / "x.mindir", image_size=(16, 16))
    text = str(refused.value)
    assert text.startswith("MindSpore can't export this network to MindIR: ")
    assert text.endswith("--dynamic none")
    assert "\n" not in text


def test_an_accelerated_network_is_refused(tmp_path):
    import mindcv_ghost

    accelerated = Network().set_train(False)
    mindcv_ghost.accelerate(accelerated)
    with pytest.raises(UserError, match="decelerate"):
        write_mindir(accelerated, tmp_path / "x.mindir", image_size=(16, 16))
