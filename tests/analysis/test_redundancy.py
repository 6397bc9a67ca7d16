"""Errors of predicting maps from each other, and the command's files and messages."""

from __future__ import annotations

import csv

import mindcv
import numpy as np
import pytest
from mindspore import nn
from PIL import Image

import mindcv_ghost  # noqa: F401
from mindcv_ghost.analysis.least_squares import (
    fit_kernels,
    pair_residuals,
    sample_positions,
    values_at,
)
from mindcv_ghost.analysis.pictures import read_images
from mindcv_ghost.analysis.redundancy.__main__ import main
from mindcv_ghost.analysis.redundancy.measure import (
    default_layer,
    errors_csv,
    feature_maps,
    measure_redundancy,
)
from mindcv_ghost.errors import ConfigError, DataError


def noise(channels: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, channels, side, side)).astype(np.float32)


def filtered(maps: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    margin, side = len(kernel) // 2, maps.shape[-1]
    padded = np.pad(maps, ((0, 0), (margin, margin), (margin, margin)))
    return sum(
        weight * padded[:, u : u + side, v : v + side] for (u, v), weight in np.ndenumerate(kernel)
    )


def with_a_copy() -> np.ndarray:
    """Six maps: number 4 is number 1 filtered by a 3x3 kernel, number 5 is dead."""
    maps = noise(6)
    kernel = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
    maps[:, 4] = 0.7 + filtered(maps[:, 1], kernel)
    maps[:, 5] = 2.0
    return maps


def test_a_filtered_copy_is_the_best_pair_and_a_dead_map_is_in_no_pair():
    result = measure_redundancy(with_a_copy())
    assert result.live.tolist() == [0, 1, 2, 3, 4]
    assert result.pairs[0] == (1, 4)
    assert [len(set(pair)) for pair in result.pairs] == [2, 2]
    assert result.of_pair(1, 4, 3)[1] < 1e-5
    assert result.of_pair(1, 4, 1)[1] > 0.1


def test_errors_fall_with_the_kernel_size_and_are_never_above_a_constants():
    result = measure_redundancy(with_a_copy())
    for smaller, larger in ((1, 3), (3, 5), (5, 7)):
        live = ~np.eye(5, dtype=bool)
        assert (result.relative[larger] <= result.relative[smaller] + 1e-5)[live].all()
    assert result.relative[1][live].max() <= 1.0 + 1e-5


def test_the_error_of_a_pair_is_its_kernels_residual():
    maps = noise(4)
    positions = sample_positions(3, 16, 16, 500, np.random.default_rng(0))
    targets = values_at(maps, positions)
    errors = pair_residuals(maps, targets, positions, 3, intercept=True)
    kernels, constants, left = fit_kernels(
        maps[:, [2, 0]], targets[[1, 3]], positions, 3, intercept=True
    )
    np.testing.assert_allclose(errors[[2, 0], [1, 3]], left, rtol=1e-3)
    made = np.stack([filtered(maps[:, 2], kernels[0]), filtered(maps[:, 0], kernels[1])], axis=1)
    made = values_at(made, positions) + constants[:, None]
    np.testing.assert_allclose(((made - targets[[1, 3]]) ** 2).mean(axis=1), left, rtol=1e-3)


def test_positions_are_drawn_without_replacement_and_few_are_all_taken():
    image, row, column = sample_positions(2, 3, 4, 10, np.random.default_rng(0))
    assert len(set(zip(image.tolist(), row.tolist(), column.tolist()))) == 10
    assert len(sample_positions(2, 3, 4, 100, np.random.default_rng(0))[0]) == 24


def test_fewer_than_two_live_maps_are_refused():
    maps = np.zeros((1, 4, 8, 8), np.float32)
    with pytest.raises(DataError, match="0 of 4 maps vary"):
        measure_redundancy(maps)


def test_the_table_has_the_pairs_and_summaries_over_all_maps():
    rows = list(csv.DictReader(errors_csv(measure_redundancy(with_a_copy())).splitlines()))
    assert [row["what"] for row in rows[:4]] == ["pair 1", "pair 1", "pair 2", "pair 2"]
    assert (rows[0]["source"], rows[0]["target"]) == ("1", "4")
    assert float(rows[1]["d=1"]) > float(rows[1]["d=3"])
    by_name = {row["what"]: row for row in rows[4:]}
    assert float(by_name["each map from its best source: share below 0.1"]["d=3"]) == 0.2


@pytest.mark.parametrize("model", ["resnet18", "ghost_resnet18"])
def test_the_default_layer_ends_the_first_residual_stage(model):
    assert default_layer(mindcv.create_model(model, num_classes=3)) == "layer1"


def test_a_network_without_feature_info_needs_a_layer():
    network = nn.SequentialCell(nn.Conv2d(3, 4, 3), nn.ReLU())
    with pytest.raises(ConfigError, match="give --layer, for example 0, 1"):
        default_layer(network)


def test_a_wrong_layer_is_refused_with_similar_names_and_the_needed_shape():
    network = mindcv.create_model("resnet18", num_classes=3)
    images = noise(3, side=32)
    with pytest.raises(ConfigError, match="no layer 'layer1.0.con1'; there are layer1.0.conv1"):
        feature_maps(network, images, "layer1.0.con1")
    with pytest.raises(ConfigError, match=r"classifier has an output of shape \(3, 3\)"):
        feature_maps(network, images, "classifier")
    assert feature_maps(network, images, "layer1").shape == (3, 64, 8, 8)


def test_the_centre_of_a_picture_is_cropped(tmp_path):
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, 20:60] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    images = read_images([str(tmp_path / "a.png")], 20, 3)
    assert images.shape == (1, 3, 20, 20)
    white = (1.0 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(images[0, :, 10, 10], white, rtol=1e-5)
    assert read_images([str(tmp_path / "a.png")], 20, 1).shape == (1, 1, 20, 20)
    grey = read_images([str(tmp_path / "a.png")], 20, 1, [55.0], [50.0])
    np.testing.assert_allclose(grey[0, 0, 10, 10], 4.0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["resnet18", "--image", "nowhere.png"], "--image nowhere.png can't be read"),
        (["resnet18", "--image", __file__], "can't be read as a picture"),
        (["resnet18", "--in_channels", "2"], "--in_channels is 2"),
        (["resnet18", "--image_size", "0"], "--image_size is 0"),
        (["resnet1"], "there is no model 'resnet1'"),
    ],
    ids=["no file", "no picture", "channels", "size", "model"],
)
def test_bad_arguments_end_with_status_2_and_a_message(arguments, message, capsys):
    pytest.importorskip("sklearn")
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_missing_checkpoint_is_named(tmp_path, capsys):
    pytest.importorskip("sklearn")
    arguments = ["resnet18", "--image_size", "32", "--ckpt_path", str(tmp_path / "none.ckpt")]
    assert main(arguments) == 2
    assert "none.ckpt" in capsys.readouterr().err


def test_the_command_writes_picture_and_table_and_warns_about_random_weights(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    picture = np.random.default_rng(0).integers(0, 255, (48, 48, 3)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    arguments = ["resnet18", "--image", str(tmp_path / "a.png"), "--image_size", "48"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr()
    assert "weights are RANDOM" in told.err
    assert "resnet18, layer1" in told.out
    with Image.open(tmp_path / "out" / "maps.png") as drawn:
        assert drawn.width > 1000
    rows = list(csv.reader((tmp_path / "out" / "errors.csv").open()))
    assert rows[0] == ["what", "measure", "source", "target", "d=1", "d=3", "d=5", "d=7"]
    assert len(rows) == 11
