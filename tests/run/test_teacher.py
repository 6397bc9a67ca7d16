"""The teacher that a recipe asks for: what is loaded, what is refused, what it costs."""

from __future__ import annotations

import hashlib

import mindcv
import mindspore as ms
import numpy as np
import pytest

import mindcv_ghost  # noqa: F401 (registers the zoo)
from mindcv_ghost.config import load_config
from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.parameters import checksum
from mindcv_ghost.errors import CheckpointError, ConfigError
from mindcv_ghost.launch.world import detect
from mindcv_ghost.run.teacher import load_teacher, prepare_teacher
from mindcv_ghost.storage.checkpoint import save_weights
from tests.helpers.randomised import randomise
from tests.helpers.tiny_network import tiny_registered

MODEL, CLASSES = "ghost_resnet20_cifar", 6


def save(path, seed=1, prefix="", **arguments):
    """Write a teacher's file; returns its network."""
    network = mindcv.create_model(MODEL, **{"num_classes": CLASSES, "ratio": 1, **arguments})
    randomise(network, seed)
    parameters = list(network.get_parameters())
    for parameter in parameters:
        parameter.name = prefix + parameter.name
    save_weights(parameters, path)
    return network.set_train(False)


def config_of(path, *options):
    distill = ("--teacher", MODEL, "--teacher_ckpt", str(path), "--teacher_args", "ratio=1")
    return load_config([*distill, "--image_resize", "32", "--batch_size", "4", *options])


def load(path, *options):
    return load_teacher(config_of(path, *options), CLASSES, Collectives())


def prepare(path, *options):
    config = config_of(path, *options)
    loaded = load_teacher(config, CLASSES, Collectives())
    return prepare_teacher(loaded, config, detect({}), "CPU", CLASSES, Collectives())


def test_a_recipe_without_a_teacher_has_none():
    assert load_teacher(load_config([]), CLASSES, Collectives()) is None


def test_the_digest_is_the_weights_and_not_the_file_s(tmp_path):
    network = save(tmp_path / "a.ckpt")
    ms.save_checkpoint(network, str(tmp_path / "b.safetensors"), format="safetensors")
    save(tmp_path / "ema.ckpt", prefix="ema.")
    save(tmp_path / "other.ckpt", seed=2)
    first = load(tmp_path / "a.ckpt").digest
    assert load(tmp_path / "b.safetensors").digest == first
    assert load(tmp_path / "ema.ckpt", "--teacher_ema", "true").digest == first
    assert load(tmp_path / "other.ckpt").digest != first


def test_the_digest_is_computed_as_states_of_earlier_versions_hold_it(tmp_path):
    network = save(tmp_path / "a.ckpt")
    digest = hashlib.sha256()
    for p in network.get_parameters():
        shape = ", ".join(map(str, p.shape)) + ("," if p.ndim == 1 else "")
        digest.update(f"{p.name} ({shape}) Float32\0".encode() + p.asnumpy().tobytes())
    assert checksum(network) == digest.hexdigest()
    assert load(tmp_path / "a.ckpt").digest == digest.hexdigest()[:16]


@pytest.mark.parametrize(
    ("saved", "options", "told"),
    [
        ({}, ("--teacher", "ghostresnet20"), "there is no model 'ghostresnet20'; did you mean"),
        ({}, ("--teacher_ckpt", "gone.ckpt"), "no checkpoint gone.ckpt"),
        ({"num_classes": 7}, (), "trained for 7 classes, the network has 6. Teacher and student"),
        ({}, ("--teacher_args", "ratio=2"), "Check that --teacher (and --teacher_args) are those"),
        ({}, ("--teacher_args", "ratoi=2"), "ratoi"),
        ({}, ("--teacher_ema", "true"), "Leave out --teacher_ema true"),
        ({"prefix": "ema."}, (), "Load them with --teacher_ema true"),
    ],
)
def test_a_teacher_that_cannot_be_loaded_is_refused(tmp_path, saved, options, told):
    save(tmp_path / "a.ckpt", **saved)
    with pytest.raises((ConfigError, CheckpointError)) as caught:
        load(tmp_path / "a.ckpt", *options)
    assert str(caught.value).startswith("teacher: ")
    assert told in str(caught.value)


def test_its_answers_are_the_network_s_and_its_cost_is_measured(tmp_path):
    network = save(tmp_path / "a.ckpt")
    teacher, facts = prepare(tmp_path / "a.ckpt", "--distill_alpha", "0.25")
    image = ms.Tensor(np.random.default_rng(1).normal(size=(4, 3, 32, 32)).astype(np.float32))
    expected = network(image).asnumpy()
    largest = np.abs(expected).max()
    np.testing.assert_allclose(teacher(image).asnumpy(), expected, atol=1e-4 * largest)
    assert 0 < facts["seconds_per_batch"] < 10
    assert facts["parameters"] == sum(p.size for p in network.trainable_params())
    assert (facts["alpha"], facts["temperature"]) == (0.25, 1.0)


def test_a_teacher_for_other_images_is_refused_before_training(tmp_path):
    path = tmp_path / "a.ckpt"
    with tiny_registered("tiny_teacher") as name:  # its classifier fits images of 32x32 alone
        network = mindcv.create_model(name, num_classes=CLASSES, ratio=1)
        save_weights(list(network.get_parameters()), path)
        with pytest.raises(ConfigError, match="can't answer the student's images of 3x48x48"):
            prepare(path, "--teacher", name, "--image_resize", "48")


def test_a_teacher_of_nan_is_refused_before_training(tmp_path):
    network = save(tmp_path / "a.ckpt")
    network.classifier.bias.set_data(ms.Tensor(np.full(CLASSES, np.nan, np.float32)))
    save_weights(list(network.get_parameters()), tmp_path / "a.ckpt")
    with pytest.raises(ConfigError, match="teacher: .* answers to random images aren't finite"):
        prepare(tmp_path / "a.ckpt")
