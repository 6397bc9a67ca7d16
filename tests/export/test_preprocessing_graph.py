"""Preprocessing inside the ONNX graph gives the very pixels of validation."""

from __future__ import annotations

import dataclasses
import os

import mindspore  # noqa: F401 (before onnx)
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image

from mindcv_ghost.data import Augment, EvalLoader, FolderSource
from mindcv_ghost.errors import ConfigError
from mindcv_ghost.export.preprocessing_graph import EMBEDDABLE, embed_preprocessing
from mindcv_ghost.inference.description import Preprocessing
from mindcv_ghost.inference.preprocessing import to_pixels
from mindcv_ghost.run.preprocessing import describe_preprocessing

SIZES = (
    (40, 52),
    (52, 40),
    (33, 33),
    (64, 64),
    (128, 96),
    (31, 200),
    (350, 37),
    (2, 900),
    (901, 3),
)
SIZES += ((300, 400),)  # a nearest neighbour on the edge of two pixels, for 224 of 256


def identity(preprocessing: Preprocessing, batch: int | str = "batch") -> onnx.ModelProto:
    """A network whose logits are its input."""
    shape = [batch, preprocessing.channels, preprocessing.height, preprocessing.width]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)
    node = helper.make_node("Identity", ["image"], ["logits"])
    graph = helper.make_graph([node], "identity", [image], [logits])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def session(preprocessing: Preprocessing) -> onnxruntime.InferenceSession:
    model = embed_preprocessing(identity(preprocessing), preprocessing)
    return onnxruntime.InferenceSession(model.SerializeToString())


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> FolderSource:
    """Noise of many shapes: large and small, exactly twice the input, and ribbons."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "a").mkdir()
    random = np.random.default_rng(0)
    for number, (height, width) in enumerate(SIZES):
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "a" / f"{number}.png")
    return FolderSource(str(folder))


SETTINGS = {
    "square": Augment(image_resize=32),
    "no_margin": Augment(image_resize=32, crop_pct=1.0),
    "odd": Augment(image_resize=33, crop_pct=0.9),
    "border": Augment(image_resize=32, crop_pct=1.2),
    "odd_border": Augment(image_resize=33, crop_pct=1.3),
    "not_square": Augment(image_resize=(24, 40)),
    "bicubic": Augment(image_resize=32, interpolation="bicubic"),
    "bicubic_border": Augment(image_resize=33, crop_pct=1.3, interpolation="bicubic"),
    "bicubic_not_square": Augment(image_resize=(24, 41), interpolation="bicubic"),
    "nearest": Augment(image_resize=33, crop_pct=0.9, interpolation="nearest"),
    "nearest_border": Augment(image_resize=32, crop_pct=1.2, interpolation="nearest"),
    "nearest_224": Augment(interpolation="nearest"),
    "one_mean": Augment(image_resize=32, mean=(100.0,), std=(50.0,)),
}


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("name", SETTINGS)
def test_pixels_are_those_of_validation_bit_for_bit(name, channels, pictures):
    augment = SETTINGS[name]
    source = FolderSource(pictures.root, in_channels=channels)
    loader = EvalLoader(source, augment, batch_size=len(source))
    [(expected, _, valid)] = loader.batches().create_tuple_iterator(output_numpy=True)
    assert valid.all()
    graph = session(describe_preprocessing("imagenet", augment, channels))
    for index in range(len(source)):
        picture = np.asarray(Image.open(source.name_of(index)))
        [found] = graph.run(None, {"image": picture[np.newaxis]})
        assert np.array_equal(found[0], expected[index]), SIZES[index]


def test_a_batch_of_equal_pictures_gives_what_each_gives_alone(pictures):
    preprocessing = describe_preprocessing("imagenet", SETTINGS["square"], 3)
    graph = session(preprocessing)
    batch = np.random.default_rng(1).integers(0, 256, (3, 45, 71, 3), np.uint8)
    [together] = graph.run(None, {"image": batch})
    assert together.shape == (3, 3, 32, 32)
    for one, found in zip(batch, together):
        assert np.array_equal(graph.run(None, {"image": one[np.newaxis]})[0][0], found)


def test_the_network_and_a_fixed_batch_stay_as_they_were():
    preprocessing = describe_preprocessing("imagenet", SETTINGS["square"], 3)
    model = identity(preprocessing, batch=1)
    before = model.SerializeToString()
    embedded = embed_preprocessing(model, preprocessing)
    assert model.SerializeToString() == before
    [image] = embedded.graph.input
    dims = [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim]
    assert (image.name, dims) == ("image", [1, "height", "width", 3])
    assert image.type.tensor_type.elem_type == TensorProto.UINT8
    names = [node.name for node in embedded.graph.node]
    assert all(name.startswith("preprocessing/") for name in names[:-1])
    assert {node.domain for node in embedded.graph.node} == {""}


@pytest.mark.parametrize("interpolation", ["area", "pilcubic"])
def test_another_interpolation_is_refused(interpolation):
    preprocessing = describe_preprocessing("imagenet", SETTINGS["square"], 3)
    other = dataclasses.replace(preprocessing, interpolation=interpolation)
    with pytest.raises(ConfigError, match=f"interpolation is {interpolation}: leave"):
        embed_preprocessing(identity(other), other)


@pytest.mark.skipif(
    "MINDCV_GHOST_PHOTOGRAPHS" not in os.environ,
    reason="MINDCV_GHOST_PHOTOGRAPHS names no folder of class folders with photographs",
)
@pytest.mark.parametrize("by", EMBEDDABLE)
def test_photographs_in_their_real_sizes_give_the_pixels_of_validation(by):
    """Photographs of a data set can't be in the repository: this test takes the user's own."""
    source = FolderSource(os.environ["MINDCV_GHOST_PHOTOGRAPHS"])
    augment = Augment(interpolation=by)
    graph = session(describe_preprocessing("imagenet", augment, 3))
    loader = EvalLoader(source, augment, batch_size=8)
    index = 0
    for images, _, valid in loader.batches().create_tuple_iterator(output_numpy=True):
        for expected in images[valid == 1]:
            picture = to_pixels(source.name_of(index))
            [found] = graph.run(None, {"image": picture[np.newaxis]})
            assert np.array_equal(found[0], expected), source.name_of(index)
            index += 1
    assert index == len(source) > 0
