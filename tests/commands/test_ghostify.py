"""``mindcv-ghost ghostify``: the report, the saved weights, and what it refuses."""

from __future__ import annotations

import json
import shlex

import mindcv
import numpy as np
import pytest
from mindspore import Tensor
from PIL import Image

import mindcv_ghost  # noqa: F401 (registers the zoo)
from mindcv_ghost.analysis.pictures import read_images
from mindcv_ghost.commands.ghostify import main
from mindcv_ghost.config import load_config
from mindcv_ghost.run.model import create_network
from mindcv_ghost.storage.checkpoint import load_weights, save_weights
from mindcv_ghost.surgery import ghostify

LONG = f"{300 * 'x'}.ckpt"
FIT = ["resnet18", "--init", "fit", "--ckpt_path", "in.ckpt", "--image", "a.png"]
MODEL = ["resnet18", "--num_classes", "10", "--image_size", "64", "--where", "layer4.1.*"]


def output(x: Tensor, network) -> np.ndarray:
    return network.set_train(False)(x).asnumpy()


@pytest.fixture(scope="module")
def images() -> Tensor:
    random = np.random.default_rng(0)
    return Tensor(random.normal(size=(2, 3, 64, 64)).astype(np.float32))


def network_of(line: str):
    """Create the network that the command's last line describes, as train and validate do."""
    options = shlex.split(line.partition("it loads with ")[2])
    return create_network(load_config(options).model, num_classes=10)[0]


def test_the_report_is_that_of_the_function(capsys):
    assert main([*MODEL, "--ratio", "3", "--cheap_kernel_size", "5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    network = mindcv.create_model("resnet18", num_classes=10)
    _, report = ghostify(network, ratio=3, cheap_kernel_size=5, where=["layer4.1.*"], image_size=64)
    assert found == json.loads(json.dumps(report.as_dict()))
    assert [row["name"] for row in found["convolutions"] if row["replaced"]] == [
        "layer4.1.conv1",
        "layer4.1.conv2",
    ]


@pytest.mark.slow
def test_the_saved_network_is_loaded_by_the_options_that_are_printed(tmp_path, capsys, images):
    dense = mindcv.create_model("resnet18", num_classes=10)
    save_weights(list(dense.get_parameters()), tmp_path / "in.ckpt")
    out = tmp_path / "out.ckpt"
    words = [*MODEL, "--ckpt_path", str(tmp_path / "in.ckpt"), "--output", str(out)]
    assert main(words) == 0
    *table, line = capsys.readouterr().out.splitlines()
    assert line.startswith(f"written: {out}; it loads with --model resnet18 ")
    assert table[-1].startswith("2 of 20 convolutions are Ghost modules (ratio 2, ")
    ghost = network_of(line)
    # What wasn't replaced has the weights of in.ckpt.
    again = mindcv.create_model("resnet18", num_classes=10)
    load_weights(again, tmp_path / "in.ckpt")
    kept = {p.name: p.asnumpy() for p in again.get_parameters()}
    same = [p.name for p in ghost.get_parameters() if p.name in kept]
    assert len(same) == 18 * 5 + 2  # 18 of 20 convolutions with BN, and the classifier
    for parameter in ghost.get_parameters():
        if parameter.name in kept:
            np.testing.assert_array_equal(parameter.asnumpy(), kept[parameter.name])
    np.testing.assert_array_equal(output(images, ghost), output(images, network_of(line)))


def test_a_fitted_network_is_that_of_the_function(tmp_path, capsys, images):
    dense = mindcv.create_model("resnet18", num_classes=10)
    save_weights(list(dense.get_parameters()), tmp_path / "in.ckpt")
    random = np.random.default_rng(1)
    pictures = [str(tmp_path / f"{number}.png") for number in range(4)]
    for path in pictures:
        Image.fromarray(random.integers(0, 255, (32, 32, 3), np.uint8)).save(path)
    size, where = ["--num_classes", "10", "--image_size", "32"], "layer2.1.conv1"
    words = ["resnet18", *size, "--where", where, "--init", "fit", "--image", *pictures]
    words += ["--ckpt_path", str(tmp_path / "in.ckpt"), "--output", str(tmp_path / "out.ckpt")]
    assert main(words) == 0
    saved = network_of(capsys.readouterr().out.splitlines()[-1])
    expected, _ = ghostify(
        dense, where=[where], init="fit", calibration=read_images(pictures, 32, 3), image_size=32
    )
    np.testing.assert_array_equal(output(images, saved), output(images, expected))


def test_the_printed_options_build_the_network_of_other_channels_and_arguments(tmp_path, capsys):
    out = tmp_path / "with a space.ckpt"
    words = ["ghost_resnet20_cifar", "--model_args", "ratio=1", "--in_channels", "1"]
    words += ["--num_classes", "10", "--image_size", "28", "--where", "*"]
    assert main([*words, "--cheap_kernel_size", "1", "--output", str(out)]) == 0
    network = network_of(capsys.readouterr().out.splitlines()[-1])
    load_weights(network, out)
    assert network.conv1.primary.conv.primary.conv.weight.shape == (8, 1, 3, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resnet18", "--ratio", "1"], "resnet18: ratio is 1, but it must be at least 2"),
        (["resnet81"], "there is no model 'resnet81'; did you mean 'resnet18'?"),
        (["resnet18", "--init", "fit"], "--init fit needs a trained network and pictures"),
        (["resnet18", "--image", "a.png"], "--image is only for --init fit"),
        (["resnet18", "--output", "a.pth"], "--output a.pth: the suffix must be .ckpt"),
        (["resnet18", "--output", "no/a.ckpt"], "--output no/a.ckpt: there is no folder no"),
        (["resnet18", "--output", LONG], f"--output {LONG} can't be written: File name too long"),
        (["resnet18", "--output", "old.ckpt"], "--output old.ckpt exists already; --force"),
        (["resnet18", "--image_size", "4"], "--image_size is 4; it must be at least 8"),
        (["resnet18", "--cheap_kernel_size", "9"], "--cheap_kernel_size is 9; give one of 1, 3"),
        (["resnet18", "--std", "1", "1", "1"], "--std is only for --init fit; leave it out"),
        ([*FIT, "--mean", "1"], "--mean has 1 numbers, but --in_channels is 3: give one for each"),
        ([*FIT, "--std", "1", "0", "1"], "--std is 1.0 0.0 1.0; give numbers above 0"),
    ],
)
def test_bad_input_is_status_2_and_one_message(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.ckpt").write_bytes(b"old")
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert (tmp_path / "old.ckpt").read_bytes() == b"old"


def test_the_command_that_converts_pytorchs_file_names_the_model(tmp_path, capsys):
    (tmp_path / "a.pth").write_bytes(b"PK\x03\x04 a ZIP archive")
    assert main([*MODEL, "--ckpt_path", str(tmp_path / "a.pth")]) == 2
    assert "a.ckpt --model resnet18" in capsys.readouterr().err
