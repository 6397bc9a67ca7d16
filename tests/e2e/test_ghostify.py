"""A recipe's ``ghostify`` key, from a trained network to a validated Ghost network."""

from __future__ import annotations

import json

import mindcv
import mindspore as ms
import pytest

from tests.helpers.tiny_network import model_registry_kept, register_plain

from .conftest import recipe, rows


@pytest.mark.parametrize(
    ("model", "where", "replaced", "convolutions", "ranks", "averages"),
    [
        pytest.param("tiny_plain", "layer2.*", 1, 2, 1, ["true"], id="tiny"),
        *(
            pytest.param(
                *("resnet18", "layer4.*", 5, 20, ranks, ["false", "true"]),
                id=f"resnet18-{ranks}",
                marks=pytest.mark.slow,
            )
            for ranks in (1, 2)
        ),
    ],
)
def test_a_trained_network_is_fitted_trained_and_validated(
    images, scripts, model, where, replaced, convolutions, ranks, averages
):
    scripts.tiny = model == "tiny_plain"
    ms.set_seed(3)
    with model_registry_kept():
        register_plain("tiny_plain", has_bn=True)
        dense = mindcv.create_model(model, num_classes=6)
    ms.save_checkpoint(dense, str(scripts.cwd / "dense.ckpt"))
    done = scripts.train(
        *recipe(images, model=model, epoch_size=1, batch_size=8, ema="true"),
        *("--ckpt_path", "dense.ckpt", "--ckpt_save_dir", "run"),
        *("--ghostify", "ratio=2", "init=fit", "calibration_images=24", f"where={where}"),
        ranks=ranks,
    )
    told = f"{replaced} of {convolutions} convolutions are Ghost modules (ratio 2"
    assert done.out.count(told) == 1
    facts = json.loads((scripts.cwd / "run" / "run.json").read_text())
    assert facts["ghostify"]["after"]["parameters"] == facts["parameters"]
    assert [r["replaced"] for r in facts["ghostify"]["convolutions"]].count(True) == replaced
    for average in averages:
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
