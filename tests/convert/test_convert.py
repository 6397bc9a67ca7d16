"""The conversion command is strict, bit-exact in both directions, and works without PyTorch."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import mindcv
import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from safetensors.numpy import load_file, save_file

import mindcv_ghost  # noqa: F401
from mindcv_ghost.convert import to_mindspore, to_torch, torch_names
from mindcv_ghost.convert.__main__ import main
from mindcv_ghost.convert.torch_file import write_torch_file
from mindcv_ghost.errors import CheckpointError, ConfigError
from mindcv_ghost.storage.checkpoint import load_weights, save_weights

ROOT = Path(__file__).resolve().parents[2]
MODEL = "ghost_resnet18"


def random_state(name: str, **options) -> dict[str, np.ndarray]:
    """Make a state dict of random numbers with PyTorch's names."""
    network = mindcv.create_model(name, **options)
    random = np.random.RandomState(0)
    values = {
        p.name: random.standard_normal(p.shape).astype(np.float32) for p in network.get_parameters()
    }
    return to_torch(values, network, name)[0]


@pytest.fixture(scope="module")
def state():
    return random_state(MODEL, num_classes=7)


@pytest.fixture
def source(tmp_path, state):
    save_file(state, tmp_path / "source.safetensors")
    return tmp_path / "source.safetensors"


def run(*argv) -> int:
    return main([str(argument) for argument in argv])


def test_names_are_translated_to_pytorchs():
    names = torch_names(MODEL, ["layer1.0.conv1.primary.bn.moving_mean", "classifier.bias"])
    assert list(names.values()) == ["layer1.0.conv1.primary_conv.1.running_mean", "fc.bias"]
    three = ["blocks.1.0.conv_dw.branches.2.bn.gamma", "blocks.2.0.ghost1.cheap.skip.beta"]
    assert list(torch_names("ghostnetv3_100", three).values()) == [
        "blocks.1.0.dw_rpr_conv.2.bn1.weight",
        "blocks.2.0.ghost1.cheap_rpr_skip.bias",
    ]
    authors = torch_names("ghostnetv3_100", three, "authors")
    assert authors[three[0]] == "blocks.1.0.dw_rpr_conv.2.bn.weight"


def test_round_trip_is_bit_exact_and_accounts_for_everything(tmp_path, source, state, capsys):
    assert run(source, tmp_path / "there.ckpt", "--model", MODEL, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    norms = sum(name.endswith("running_var") for name in state)
    assert report["matched"] + report["counters"] == len(state)
    assert report["statistics"] == 2 * norms == 2 * report["counters"]
    assert run(tmp_path / "there.ckpt", tmp_path / "back.safetensors", "--model", MODEL) == 0
    back = load_file(tmp_path / "back.safetensors")
    assert set(back) == set(state)
    for name, array in state.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)


def test_converted_file_loads_with_load_weights_and_with_checkpoint_path(tmp_path, source, state):
    run(source, tmp_path / "out.ckpt", "--model", MODEL)
    network = mindcv.create_model(MODEL, num_classes=7)
    load_weights(network, tmp_path / "out.ckpt")
    np.testing.assert_array_equal(network.classifier.weight.asnumpy(), state["fc.weight"])
    other = mindcv.create_model(MODEL, num_classes=7, checkpoint_path=str(tmp_path / "out.ckpt"))
    np.testing.assert_array_equal(other.conv1.weight.asnumpy(), state["conv1.weight"])


def test_ema_option_converts_the_averaged_weights(tmp_path, capsys):
    network = mindcv.create_model(MODEL, num_classes=7)
    averaged = []
    for parameter in network.get_parameters():
        copy = parameter.clone(init="ones" if parameter.ndim > 1 else "zeros")
        copy.name = f"ema.{parameter.name}"
        averaged.append(copy)
    save_weights([*network.get_parameters(), *averaged], tmp_path / "run.ckpt")
    arguments = (tmp_path / "run.ckpt", tmp_path / "out.safetensors", "--model", MODEL)
    assert run(*arguments, "--ema") == 0
    assert load_file(tmp_path / "out.safetensors")["conv1.weight"].min() == 1.0
    assert run(*arguments, "--force") == 0
    expected = network.conv1.weight.asnumpy()
    np.testing.assert_array_equal(load_file(tmp_path / "out.safetensors")["conv1.weight"], expected)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.pop("bn1.running_var"), "1 missing in the file:\n    bn1.running_var"),
        (
            lambda s: s.update(extra=np.zeros(3, np.float32)),
            "1 unexpected in the file:\n    extra",
        ),
        (
            lambda s: s.update({"bn1.weight": np.zeros(3, np.float32)}),
            r"bn1.weight: file \(3,\), expected \(64,\)\nCheck --num_classes",
        ),
        (
            lambda s: s.update({"bn1.weight": np.zeros(64, np.int64)}),
            r"1 of \d+ arrays aren't of a floating-point type \(bn1.weight is int64\)",
        ),
        (
            lambda s: s.update({"layer1.0.conv1.weight1": np.zeros(3, np.float32)}),
            "authors' ghost_resnet.py",
        ),
    ],
)
def test_array_that_does_not_fit_is_refused(state, change, message):
    changed = dict(state)
    change(changed)
    with pytest.raises(CheckpointError, match=message):
        to_mindspore(changed, mindcv.create_model(MODEL, num_classes=7), MODEL)


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.network."])
def test_a_prefix_of_pytorchs_names_is_taken_off_and_told(tmp_path, state, prefix, capsys):
    save_file({prefix + n: a for n, a in state.items()}, tmp_path / "p.safetensors")
    assert run(tmp_path / "p.safetensors", tmp_path / "p.ckpt", "--model", MODEL) == 0
    assert f"{prefix!r} taken off the names" in capsys.readouterr().out
    network = mindcv.create_model(MODEL, num_classes=7)
    load_weights(network, tmp_path / "p.ckpt")
    np.testing.assert_array_equal(network.conv1.weight.asnumpy(), state["conv1.weight"])


def test_a_second_tensor_of_the_same_name_is_left_over(state):
    both = {f"module.{n}": a for n, a in state.items()}
    both["conv1.weight"] = state["conv1.weight"] + 1
    with pytest.raises(CheckpointError, match="1 unexpected in the file:\n    module.conv1.weight"):
        to_mindspore(both, mindcv.create_model(MODEL, num_classes=7), MODEL)


def test_two_sets_of_pytorchs_weights_are_refused(state):
    both = {f"{p}.{n}": a for n, a in state.items() for p in ("student", "teacher")}
    with pytest.raises(CheckpointError, match=r"that all fit: student\.\* and teacher"):
        to_mindspore(both, mindcv.create_model(MODEL, num_classes=7), MODEL)


def test_a_training_cell_of_mindspore_is_converted_from_either_of_its_formats(tmp_path, capsys):
    network = mindcv.create_model(MODEL, num_classes=7)
    expected = network.conv1.weight.asnumpy()
    optimizer = mindcv.create_optimizer(network.trainable_params(), "adamw", lr=0.1)
    cell = nn.TrainOneStepCell(nn.SequentialCell(network, nn.Softmax()), optimizer)
    for suffix in ("ckpt", "safetensors"):
        source, out = tmp_path / f"cell.{suffix}", tmp_path / f"{suffix}.out.safetensors"
        ms.save_checkpoint(cell, str(source), format=suffix)
        assert run(source, out, "--model", MODEL) == 0
        text = capsys.readouterr().out
        assert "'0.' taken off the names" in text and "arrays left out: an optimizer's" in text
        tensors = load_file(out)
        np.testing.assert_array_equal(tensors["conv1.weight"], expected)
        assert len(tensors["fc.bias"]) == 7


def test_mindspores_safetensors_need_no_conversion_to_ckpt(tmp_path, capsys):
    network = mindcv.create_model(MODEL, num_classes=7)
    ms.save_checkpoint(network, str(tmp_path / "a.safetensors"), format="safetensors")
    assert run(tmp_path / "a.safetensors", tmp_path / "a.ckpt", "--model", MODEL) == 2
    assert "are both MindSpore files" in capsys.readouterr().err


def test_the_command_in_the_error_for_pytorchs_file_works(tmp_path, source):
    network = mindcv.create_model(MODEL, num_classes=7)
    with pytest.raises(CheckpointError, match="The names are PyTorch's") as caught:
        load_weights(network, source, model=MODEL)
    command = shlex.split(str(caught.value).rpartition("Convert it: ")[2])
    assert command[:3] == ["python", "-m", "mindcv_ghost.convert"]
    assert main(command[3:]) == 0
    assert load_weights(network, source.with_suffix(".ckpt")).loaded == len(
        list(network.get_parameters())
    )


def test_a_counter_of_batches_stays_a_scalar_in_safetensors(tmp_path):
    path = tmp_path / "scalar.safetensors"
    write_torch_file(path, {"bn1.num_batches_tracked": np.zeros((), np.int64)})
    assert load_file(path)["bn1.num_batches_tracked"].shape == ()


def test_bfloat16_safetensors_are_read_without_pytorch(tmp_path, state):
    from ml_dtypes import bfloat16

    half = {n: a.astype(bfloat16) if a.dtype == np.float32 else a for n, a in state.items()}
    save_file(half, tmp_path / "b.safetensors")
    assert run(tmp_path / "b.safetensors", tmp_path / "b.ckpt", "--model", MODEL) == 0
    network = mindcv.create_model(MODEL, num_classes=7)
    load_weights(network, tmp_path / "b.ckpt")
    np.testing.assert_array_equal(
        network.conv1.weight.asnumpy(), half["conv1.weight"].astype(np.float32)
    )


def test_half_precision_is_converted_to_float32_and_counted(state):
    half = {n: a.astype(np.float16) if a.dtype == np.float32 else a for n, a in state.items()}
    network = mindcv.create_model(MODEL, num_classes=7)
    arrays, report = to_mindspore(half, network, MODEL)
    assert report.cast == report.matched
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}


def test_quantised_weights_are_refused_in_this_direction_too(state):
    network = mindcv.create_model(MODEL, num_classes=7)
    arrays, _ = to_mindspore(state, network, MODEL)
    arrays["conv1.weight"] = arrays["conv1.weight"].astype(np.int8)
    with pytest.raises(CheckpointError, match="1 of .* floating-point type .conv1.weight is int8"):
        to_torch(arrays, network, MODEL)


def test_the_classes_of_a_ghost_classifier_are_counted(tmp_path):
    network = mindcv.create_model("ghost_resnet18", num_classes=6, ghost_classifier=True)
    save_weights(list(network.get_parameters()), tmp_path / "in.ckpt")
    words = ["--model", "ghost_resnet18", "--model_args", "ghost_classifier=true"]
    assert run(tmp_path / "in.ckpt", tmp_path / "out.safetensors", *words) == 0
    assert run(tmp_path / "out.safetensors", tmp_path / "back.ckpt", *words) == 0
    load_weights(network, tmp_path / "back.ckpt")


def test_pytorchs_file_is_known_by_its_content_whatever_its_suffix(tmp_path, source, capsys):
    (tmp_path / "a.ckpt").write_bytes(source.read_bytes())
    assert run(tmp_path / "a.ckpt", tmp_path / "x.pth", "--model", MODEL) == 2
    assert "are both PyTorch files" in capsys.readouterr().err


LONG = 300 * "x"


@pytest.mark.parametrize(
    "argv, message",
    [
        (["{source}", "x.pth", "--model", MODEL], "x.pth are both PyTorch files"),
        (["{source}", "x.onnx", "--model", MODEL], "the suffix must be .ckpt"),
        (["missing.pth", "x.ckpt", "--model", MODEL], "missing.pth does not exist"),
        (["missing.ckpt", "x.pth", "--model", MODEL], "no checkpoint missing.ckpt"),
        ([f"{LONG}.pth", "x.ckpt", "--model", MODEL], f"{LONG}.pth does not exist"),
        (["{source}", f"{LONG}.ckpt", "--model", MODEL], "File name too long"),
        (["{source}", "x.ckpt", "--model", "resnet50"], "names are known for"),
        (["{source}", "x.ckpt", "--model", "ghost_resnet19"], "there is no model 'ghost_resnet19'"),
        (["{source}", "x.ckpt", "--model", MODEL, "--model_args", "ratio=0"], "ratio is 0"),
        (["{source}", "x.ckpt", "--model", MODEL, "--num_classes", "3"], "doesn't fit"),
        (["{source}", "{source}/x.ckpt", "--model", MODEL], "can't be written"),
        (["{damaged}", "x.ckpt", "--model", MODEL], "can't be read as a checkpoint"),
        (
            ["{source}", "{source}.ckpt", "--model", MODEL, "--ema"],
            "--ema is only for MindSpore's files",
        ),
    ],
)
def test_bad_input_ends_with_status_2_and_one_message(
    tmp_path, monkeypatch, source, argv, message, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged.safetensors").write_bytes(source.read_bytes()[:1000])
    places = {"source": source, "damaged": tmp_path / "damaged.safetensors"}
    assert run(*(argument.format(**places) for argument in argv)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert not list(tmp_path.glob("x.*"))


def test_existing_file_is_replaced_only_with_force(tmp_path, source, capsys):
    out = tmp_path / "out.ckpt"
    out.write_text("mine")
    assert run(source, out, "--model", MODEL) == 2
    assert "--force" in capsys.readouterr().err and out.read_text() == "mine"
    assert run(source, out, "--model", MODEL, "--force") == 0
    assert out.stat().st_size > 1_000_000


def test_dialect_without_names_is_refused():
    with pytest.raises(ConfigError, match="has names in timm, not in 'authors'"):
        torch_names(MODEL, ["conv1.weight"], "authors")


def test_the_authors_names_are_recognised_and_profiler_counters_dropped():
    name, options = "ghostnetv3_050", {"num_classes": 5}
    network = mindcv.create_model(name, **options)
    values = {p.name: p.asnumpy() for p in network.get_parameters()}
    authors = to_torch(values, network, name, "authors")[0]
    authors["blocks.0.0.ghost1.total_ops"] = np.zeros(1, np.float64)
    arrays, report = to_mindspore(authors, network, name)
    assert report.dialect == "authors"
    for parameter, array in values.items():
        np.testing.assert_array_equal(arrays[parameter], array)


def test_command_needs_no_pytorch_for_safetensors(tmp_path, source):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from mindcv_ghost.convert.__main__ import main\n"
        f"sys.exit(main([{str(source)!r}, {str(tmp_path / 'o.ckpt')!r}, '--model', {MODEL!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120,
        env={**os.environ, "GLOG_v": "3"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "BN statistics" in done.stdout


def test_pth_without_pytorch_names_the_package_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "x.pth").write_bytes(b"PK")
    assert run(tmp_path / "x.pth", tmp_path / "o.ckpt", "--model", MODEL) == 2
    assert "pip install 'mindcv-ghost[torch]'" in capsys.readouterr().err
