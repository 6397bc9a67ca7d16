"""The network's input in prediction is that of validation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from mindcv_ghost.data import ArraySource, Augment, EvalLoader, FolderSource
from mindcv_ghost.errors import DataError
from mindcv_ghost.inference.description import Preprocessing
from mindcv_ghost.inference.preprocessing import check_preprocessing, preprocess, to_pixels
from mindcv_ghost.run.preprocessing import describe_preprocessing

from ..data.conftest import encoded, photograph

PLAIN = Preprocessing(8, 8, 8)
SIZES = [(301, 199), (128, 333), (97, 61), (40, 40), (56, 56), (112, 112), (3000, 7), (5, 2998)]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Baseline and progressive JPEGs and a PNG, in sizes of all kinds."""
    root = tmp_path_factory.mktemp("photographs")
    (root / "a").mkdir()
    for k, size in enumerate(SIZES):
        options = [{"quality": 90}, {"progressive": True}, {"subsampling": 0}][k % 3]
        data = encoded(photograph(k, size), **options)
        (root / "a" / f"{k}.jpg").write_bytes(data)
    photograph(9, (64, 50)).convert("RGBA").save(root / "a" / "9.png")
    return root


def validated(source, augment: Augment, native: bool = True) -> np.ndarray:
    loader = EvalLoader(source, augment, batch_size=3, native=native)
    batches = loader.batches().create_tuple_iterator(output_numpy=True)
    return np.concatenate([batch[0] for batch in batches])[: len(source)]


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {"image_resize": 56},
        {"image_resize": (40, 60)},
        {"image_resize": 49, "crop_pct": 1.0, "mean": (127.5,), "std": (60.0,)},
        {"image_resize": 49, "crop_pct": 1.3},
        *({"image_resize": 56, "interpolation": name} for name in ("cubic", "nearest", "area")),
        {"image_resize": 56, "interpolation": "pilcubic"},
    ],
    ids=str,
)
def test_a_folders_images_are_the_same_bit_for_bit(settings, native, photographs):
    source, augment = FolderSource(str(photographs)), Augment(**settings)
    preprocessing = describe_preprocessing("imagenet", augment, 3)
    expected = validated(source, augment, native)
    for k in range(len(source)):
        found = preprocess(source.name_of(k), preprocessing)
        assert found.dtype == np.float32
        assert np.array_equal(found, expected[k]), source.name_of(k)


def test_grey_images_of_colours_are_the_same_bit_for_bit(photographs):
    source, augment = FolderSource(str(photographs), in_channels=1), Augment(image_resize=56)
    preprocessing = describe_preprocessing("imagenet", augment, 1)
    expected = validated(source, augment)
    assert expected.shape[1:] == (1, 56, 56)
    for k in range(len(source)):
        assert np.array_equal(preprocess(source.name_of(k), preprocessing), expected[k])


@pytest.mark.parametrize("size", [32, 28, 64, (40, 50)])
@pytest.mark.parametrize("in_channels", [3, 1])
@pytest.mark.parametrize("kind", ["cifar10", "cifar100", "mnist"])
def test_arrays_are_the_same_but_for_the_last_bit(kind, in_channels, size):
    side, channels = (28, in_channels) if kind == "mnist" else (32, 3)
    pixels = np.random.default_rng(1).integers(0, 256, (6, side, side, channels), np.uint8)
    if kind == "mnist" and in_channels == 3:
        pixels[...] = pixels[..., :1]
    labels = np.zeros(6, np.int32)
    source = ArraySource(
        pixels, labels, name="x", kind=kind, num_classes=10, in_channels=in_channels
    )
    augment = Augment(image_resize=size)
    preprocessing = describe_preprocessing(kind, augment, in_channels)
    expected = validated(source, augment)
    found = np.stack([preprocess(image, preprocessing) for image in pixels])
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-6  # values up to 2.8: 2 to 3 units of the last bit


def test_an_image_may_be_a_path_bytes_pillows_or_an_array(tmp_path):
    image = photograph(3)
    pixels = np.asarray(image)
    image.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    kinds = [tmp_path / "a.png", str(tmp_path / "a.png"), data, image, pixels]
    expected = preprocess(pixels, PLAIN)
    for kind in kinds:
        assert np.array_equal(preprocess(kind, PLAIN), expected)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA"])
def test_pillows_modes_become_what_a_file_of_theirs_would(mode, tmp_path):
    image = photograph(4).convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    assert np.array_equal(to_pixels(image), to_pixels(encoded(image, kind)))


def test_grey_is_three_equal_channels():
    grey = np.random.default_rng(2).integers(0, 256, (9, 7), np.uint8)
    colour = np.repeat(grey[..., None], 3, 2)
    for one in (grey, grey[..., None], Image.fromarray(grey)):
        assert np.array_equal(to_pixels(one), colour)
    single = dataclasses.replace(PLAIN, channels=1, mean=(0.0,), std=(1.0,), resize=7)
    assert np.array_equal(preprocess(grey[:7], single), preprocess(colour[:7], single))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32 (4, 4, 3)"),
        (np.zeros((4, 4, 4), np.uint8), "(4, 4, 4)"),
        (np.zeros((0, 4, 3), np.uint8), "(0, 4, 3)"),
        (b"no image", "is not an image"),
        (17, "int isn't a kind of image"),
        ("/nowhere/a.jpg", "/nowhere/a.jpg: can't be read: No such file"),
        ("/dev/null", "/dev/null: is not a regular file"),
        (Image.new("F", (4, 4)), "floating-point"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_image_is_said(wrong, words):
    with pytest.raises(DataError) as error:
        preprocess(wrong, PLAIN)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"interpolation": "lanczos"}, "interpolation 'lanczos'"),
        ({"channels": 4}, "channels 4"),
        ({"mean": (1.0,)}, "mean and std"),
        ({"std": (1.0, 0.0, 1.0)}, "std 0"),
        ({"mean": (1.0, float("nan"), 1.0)}, "mean and std"),
        ({"resize": 0}, "sizes"),
        ({"height": "8"}, "sizes"),
        ({"resize": (8, 8, 8)}, "resize"),
    ],
    ids=str,
)
def test_a_description_that_cannot_be_followed_is_refused(change, words):
    check_preprocessing(PLAIN, "x.onnx")
    with pytest.raises(DataError) as error:
        check_preprocessing(dataclasses.replace(PLAIN, **change), "x.onnx")
    assert str(error.value).startswith("x.onnx: ")
    assert words in str(error.value)
