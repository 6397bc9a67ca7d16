"""Images whose sides differ by thousands of times, down to one pixel, with both loaders."""

from __future__ import annotations

import io
import resource

import numpy as np
import pytest
from PIL import Image

from mindcv_ghost.data import Augment, EvalLoader, FolderSource, TrainLoader
from mindcv_ghost.data.sets.image_file import BadImage, central_part, image_size, prepare
from mindcv_ghost.errors import DataError

from .conftest import encoded, photograph
from .test_image_file import with_size

SIZES = [
    *((3000, 1), (1, 3000), (1, 1), (2, 501), (501, 2), (5, 2998), (2999, 7), (65_500, 1)),
    (1, 65_500),
]
KINDS = [("JPEG", {}), ("JPEG", {"progressive": True}), ("JPEG", {"subsampling": 0}), ("PNG", {})]
BYTES = dict(mean=(0, 0, 0), std=(1, 1, 1))  # no normalisation


def noise(width: int, height: int) -> Image.Image:
    """Neighbouring pixels that differ: a shift by one shows."""
    draw = np.random.default_rng(width + height)
    return Image.fromarray(draw.integers(0, 255, (height, width, 3), np.uint8))


def folder(root, files: list[bytes]) -> FolderSource:
    (root / "a").mkdir()
    for k, data in enumerate(files):
        (root / "a" / f"{k:02d}.jpg").write_bytes(data)
    return FolderSource(str(root))


@pytest.fixture(scope="module")
def ribbons(tmp_path_factory):
    files = [encoded(noise(*size), kind, **options) for size in SIZES for kind, options in KINDS]
    return folder(tmp_path_factory.mktemp("ribbons"), files)


def pixels(batches) -> np.ndarray:
    return np.concatenate([batch[0] for batch in batches.create_tuple_iterator(output_numpy=True)])


def evaluated(source, augment, *, native=True, cache_mb=0) -> np.ndarray:
    loader = EvalLoader(source, augment, batch_size=1, native=native, cache_mb=cache_mb)
    assert loader.backend_info.startswith("native") == native
    return pixels(loader.batches())


def trained(source, augment, *, native=True) -> np.ndarray:
    loader = TrainLoader(source, augment, batch_size=1, num_classes=1, shuffle=False, native=native)
    return pixels(loader.epoch(0))


@pytest.mark.parametrize("size, crop_pct", [(32, 0.875), (31, 1.0), ((24, 40), 0.8)])
def test_both_loaders_evaluate_ribbons_with_the_same_pixels(ribbons, size, crop_pct):
    augment = Augment(image_resize=size, crop_pct=crop_pct)
    expected = evaluated(ribbons, augment, native=False)
    assert np.isfinite(expected).all()
    assert np.array_equal(evaluated(ribbons, augment), expected)
    assert np.array_equal(evaluated(ribbons, augment, cache_mb=64), expected)


@pytest.mark.parametrize("native", [True, False], ids=["native", "MindSpore"])
@pytest.mark.parametrize("width, height", [(150, 1), (1, 150), (1001, 2), (1, 1), (1200, 4)])
def test_evaluation_sees_what_pillow_makes_of_the_whole_image(tmp_path, native, width, height):
    image = noise(width, height)
    source = folder(tmp_path, [encoded(image, "PNG")])
    ours = evaluated(source, Augment(image_resize=28, crop_pct=0.875, **BYTES), native=native)[0]
    short = min(width, height)
    across, down = 32 * width // short, 32 * height // short  # torchvision's Resize(32)
    whole = image.resize((across, down), Image.BILINEAR)
    left, top = (across - 28) // 2, (down - 28) // 2  # and CenterCrop(28)
    theirs = np.asarray(whole.crop((left, top, left + 28, top + 28)), float).transpose(2, 0, 1)
    assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize("native", [True, False], ids=["native", "MindSpore"])
def test_training_crops_the_pixel_that_timm_crops(ribbons, native):
    """No random crop fits into one row: timm and torchvision take one pixel from the centre.

    MindSpore's own operation does so, too, but rounds half a pixel up.
    """
    augment = Augment(image_resize=16, color_jitter=None, hflip=0, **BYTES)
    made = trained(ribbons, augment, native=native)
    assert made.shape == (len(SIZES) * len(KINDS), 3, 16, 16)
    for k, size in enumerate(size for size in SIZES for _ in KINDS):
        if min(size) == 1:
            with Image.open(ribbons.name_of(k)) as image:
                row = np.asarray(image.convert("RGB"), float).reshape(-1, 3)
            pixel = row[(max(size) - 1) // 2 if native else max(size) // 2]
            assert np.abs(made[k] - pixel.reshape(3, 1, 1)).max() <= 1


@pytest.mark.parametrize("native", [True, False], ids=["native", "MindSpore"])
def test_a_ribbon_takes_no_memory_for_what_is_cropped_away(tmp_path, native):
    """Resized as a whole, 65,500 x 1 pixels would take 13 GB."""
    source = folder(tmp_path, [encoded(noise(65_500, 1)), encoded(noise(1, 65_500))])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
    assert evaluated(source, Augment(), native=native).shape == (2, 3, 224, 224)
    assert trained(source, Augment(), native=native).shape == (2, 3, 224, 224)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000


@pytest.mark.parametrize("width, height", [(3001, 3), (3, 3000), (3000, 3), (40, 50), (1, 1)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_central_part_has_a_hundredfold_side_and_the_same_centre(kind, width, height):
    data = prepare(encoded(noise(width, height), kind))
    assert image_size(data) == (width, height)
    part = central_part(data)
    kept = image_size(part)
    assert max(kept) <= 100 * min(kept) + 1 and min(kept) == min(width, height)
    if kept == (width, height):
        assert part is data
    cut = [(side - left) // 2 for side, left in zip((width, height), kept)]
    assert all((side - left) % 2 == 0 for side, left in zip((width, height), kept))
    with Image.open(io.BytesIO(data.tobytes())) as whole, Image.open(io.BytesIO(part)) as middle:
        box = (cut[0], cut[1], width - cut[0], height - cut[1])
        assert np.array_equal(np.asarray(whole.crop(box)), np.asarray(middle))


def test_longer_sides_than_the_decoders_take_are_refused_with_their_limit():
    with pytest.raises(BadImage, match="is 1048577 x 1 pixels; .* may have 1,048,576: crop it"):
        prepare(encoded(Image.new("L", (2**20 + 1, 1)), "PNG"))
    with pytest.raises(BadImage, match="is 65501 x 8 pixels; .* may have 65,500: crop it"):
        prepare(with_size(encoded(photograph(1)), 65_501, 8))
    assert image_size(prepare(encoded(Image.new("L", (2**20, 1)), "PNG"))) == (2**20, 1)


def test_mindspores_limit_of_enlarging_is_named_and_the_native_loader_has_none(tmp_path):
    source = folder(tmp_path, [encoded(photograph(1, (9, 1)))])
    for make in (evaluated, trained):
        assert make(source, Augment(image_resize=1200)).shape == (1, 3, 1200, 1200)
        with pytest.raises(DataError, match="is 9 x 1 pixels, and MindSpore makes no more than 10"):
            make(source, Augment(image_resize=1200), native=False)
