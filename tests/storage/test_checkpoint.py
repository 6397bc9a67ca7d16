"""Weights are loaded as they were saved, or not at all."""

from __future__ import annotations

import mindcv
import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from mindcv_ghost.engine.ema import EmaWeights
from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.layers.rep_conv import RepConv
from mindcv_ghost.storage.checkpoint import load_weights, save_weights


class Small(nn.Cell):
    def __init__(self, classes: int = 3, fill: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Dense(4, 4, Tensor(np.full((4, 4), fill, np.float32)), has_bias=False)
        self.classifier = nn.Dense(4, classes, Tensor(np.full((classes, 4), fill, np.float32)))

    def construct(self, x):
        return self.classifier(self.body(x))


def parameters(network):
    return list(network.get_parameters())


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path):
    save_weights(parameters(Small(fill=0.1)), tmp_path / "a.ckpt")
    network = Small()
    report = load_weights(network, tmp_path / "a.ckpt")
    assert (report.loaded, report.reset, report.ema) == (3, (), False)
    np.testing.assert_array_equal(network.body.weight.asnumpy(), np.full((4, 4), 0.1, np.float32))


def test_a_failed_save_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "a.ckpt"
    save_weights(parameters(Small(fill=1.0)), path)

    def half(entries, name):
        with open(name, "wb") as file:
            file.write(b"half")
        raise RuntimeError("No space left on device")

    monkeypatch.setattr(ms, "save_checkpoint", half)
    with pytest.raises(OSError, match="a.ckpt can't be written: No space left on device"):
        save_weights(parameters(Small(fill=2.0)), path)
    monkeypatch.undo()
    network = Small()
    load_weights(network, path)
    assert float(network.body.weight.asnumpy()[0, 0]) == 1.0
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


def test_averaged_weights_are_loaded_by_this_package_and_by_mindcv(tmp_path):
    network = mindcv.create_model("resnet18", num_classes=3)
    ema = EmaWeights(network, 0.5)
    ema.averages[0].set_data(Tensor(np.ones(ema.averages[0].shape, np.float32)))
    save_weights([*parameters(network), *ema.averages], tmp_path / "a.ckpt")
    ours = mindcv.create_model("resnet18", num_classes=3)
    assert load_weights(ours, tmp_path / "a.ckpt", use_ema=True).ema
    theirs = mindcv.create_model(
        "resnet18", num_classes=3, checkpoint_path=str(tmp_path / "a.ckpt"), ema=True
    )
    for loaded in (ours, theirs):
        assert float(next(iter(loaded.get_parameters())).asnumpy().min()) == 1.0


def test_use_ema_without_averages_is_an_error(tmp_path):
    save_weights(parameters(Small()), tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="holds no averaged weights"):
        load_weights(Small(), tmp_path / "a.ckpt", use_ema=True)


def test_the_error_for_a_missing_file_lists_the_checkpoints_in_its_folder(tmp_path):
    save_weights(parameters(Small()), tmp_path / "best.ckpt")
    with pytest.raises(
        CheckpointError, match=r"no checkpoint .*bset.ckpt; that folder has best.ckpt"
    ):
        load_weights(Small(), tmp_path / "bset.ckpt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "a.ckpt"
    if content is None:
        save_weights(parameters(Small()), path)
        content = path.read_bytes()[:100]
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"a.ckpt \({len(content)} bytes\) can't be read"):
        load_weights(Small(), path)


def test_a_mismatch_lists_ten_names_of_each_kind(tmp_path):
    other = [Parameter(Tensor(np.zeros(2, np.float32)), name=f"layer{i}.weight") for i in range(14)]
    other.append(Parameter(Tensor(np.zeros((4, 5), np.float32)), name="body.weight"))
    save_weights(other, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError) as caught:
        load_weights(Small(), tmp_path / "a.ckpt")
    text = str(caught.value)
    assert "2 missing in the file:\n    classifier.weight\n    classifier.bias" in text
    assert "14 unexpected in the file:" in text
    assert "layer9.weight\n    ... and 4 more" in text
    assert "body.weight: file (4, 5), expected (4, 4)" in text


def test_a_missing_name_is_shown_beside_a_similar_one_in_the_file(tmp_path):
    renamed = parameters(Small())
    renamed[-1].name = "classifier.biases"
    save_weights(renamed, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="missing in the file") as caught:
        load_weights(Small(), tmp_path / "a.ckpt")
    assert "\n    classifier.bias (there is classifier.biases)\n" in str(caught.value)


def test_another_class_count_is_refused_unless_the_head_is_reset(tmp_path):
    save_weights(parameters(Small(classes=5, fill=1.0)), tmp_path / "a.ckpt")
    network = Small(classes=3)
    with pytest.raises(
        CheckpointError, match="trained for 5 classes, the network has 3.*reset_head"
    ):
        load_weights(network, tmp_path / "a.ckpt")
    assert float(network.body.weight.asnumpy()[0, 0]) == 0.0
    report = load_weights(network, tmp_path / "a.ckpt", reset_head=True)
    assert report.reset == ("classifier.weight", "classifier.bias")
    assert float(network.body.weight.asnumpy()[0, 0]) == 1.0
    assert float(network.classifier.weight.asnumpy()[0, 0]) == 0.0


def test_reset_head_does_not_accept_another_network(tmp_path):
    save_weights(parameters(mindcv.create_model("resnet18", num_classes=3)), tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="missing in the file"):
        load_weights(
            mindcv.create_model("resnet34", num_classes=3), tmp_path / "a.ckpt", False, True
        )


def test_optimizer_state_in_a_file_is_ignored(tmp_path):
    network = Small(fill=1.0)
    optimizer = nn.Momentum(network.trainable_params(), [0.1, 0.2], 0.9)
    everything = [*optimizer.get_parameters()]
    names = {p.name for p in everything}
    assert {"moments.body.weight", "learning_rate"} <= names
    ms.save_checkpoint([{"name": p.name, "data": p} for p in everything], str(tmp_path / "a.ckpt"))
    fresh = Small()
    assert load_weights(fresh, tmp_path / "a.ckpt").loaded == 3


@pytest.mark.parametrize("saved", [True, False])
def test_the_other_form_of_a_reparameterised_network_is_recognised(saved, tmp_path):
    def network(deploy: bool) -> nn.Cell:
        return nn.SequentialCell(nn.Conv2d(3, 4, 3), RepConv(4, 4, 3, deploy=deploy))

    save_weights(parameters(network(saved)), tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError) as refused:
        load_weights(network(not saved), tmp_path / "a.ckpt")
    advice = str(refused.value).splitlines()[-1]
    if saved:
        assert "holds the deploy form" in advice and "--model_args deploy=true builds" in advice
    else:
        assert "holds the training form" in advice and "export merges" in advice
