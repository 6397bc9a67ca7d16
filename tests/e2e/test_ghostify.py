"""A recipe's ``ghostify`` key, from a trained network to a validated Ghost network."""

from __future__ import annotations

import json

import mindcv
import mindspore as ms
import pytest

from .conftest import recipe, rows


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A checkpoint of MindCV's resnet18."""
    path = tmp_path_factory.mktemp("dense") / "resnet18.ckpt"
    ms.set_seed(3)
    ms.save_checkpoint(mindcv.create_model("resnet18", num_classes=6), str(path))
    return path


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_trained_network_is_fitted_trained_and_validated(images, dense, scripts, ranks):
    done = scripts.train(
        *recipe(images, model="resnet18", epoch_size=1, batch_size=8, ema="true"),
        *("--ckpt_path", dense, "--ckpt_save_dir", "run"),
        *("--ghostify", "ratio=2", "init=fit", "calibration_images=24", "where=layer4.*"),
        ranks=ranks,
    )
    assert done.out.count("5 of 20 convolutions are Ghost modules (ratio 2") == 1
    facts = json.loads((scripts.cwd / "run" / "run.json").read_text())
    assert facts["ghostify"]["after"]["parameters"] == facts["parameters"]
    assert [r["replaced"] for r in facts["ghostify"]["convolutions"]].count(True) == 5
    for average in ("false", "true"):
        again = scripts.validate(
            *("--config", "run/config.yaml", "--ckpt_path", "run/last.ckpt"),
            *("--use_ema", average),
        )
        assert again.json["parameters"] == facts["parameters"]
    last = rows(scripts.cwd / "run")[-1]
    assert again.json["top1"] == pytest.approx(float(last["top1"]), abs=1e-3)


def test_fit_without_a_trained_network_is_refused(images, scripts):
    done = scripts.train(*recipe(images, model="resnet18"), *("--ghostify", "init=fit"), status=2)
    assert "init fit starts from a trained network. Give its weights with --ckpt_path" in done.err


def test_a_misspelt_option_is_named(images, scripts):
    done = scripts.train(*recipe(images, model="resnet18"), *("--ghostify", "ration=2"), status=2)
    assert "ration isn't one; did you mean 'ratio'?" in done.err


def test_a_pattern_that_fits_nothing_is_named(images, scripts):
    done = scripts.train(
        *recipe(images, model="resnet18"), *("--ghostify", "where=layer5.*"), status=2
    )
    assert "ghostify: where: no convolution is named 'layer5.*'" in done.err
