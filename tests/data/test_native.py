"""The native loader: MindSpore's pixels, and random numbers by seed, epoch and position."""

from __future__ import annotations

import ctypes
import io
import platform
import random
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from mindspore.dataset import vision
from PIL import Image

from mindcv_ghost.data import Augment, EvalLoader, FolderSource, TrainLoader
from mindcv_ghost.data.native import library as native_library
from mindcv_ghost.data.native.images import SETTINGS
from mindcv_ghost.data.native.self_test import check_library, decode_files
from mindcv_ghost.data.sets.image_file import BadImage, jpeg_is_plain, prepare
from mindcv_ghost.data.transforms.factory import train_transforms
from mindcv_ghost.native_prebuilt import LEVELS, processor_flags

from .conftest import encoded, make_split, photograph

OURS = "native loader (libjpeg-turbo)"
EVERYTHING = dict(
    image_resize=24, vflip=0.3, color_jitter=(0.4, 0.3, 0.2), re_prob=0.5, mixup=0.2, cutmix=1.0
)


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        pytest.skip("there is no C++ compiler")
    return native_library.load()


@pytest.fixture(scope="module")
def images(tmp_path_factory, library):
    """23 JPEGs of three classes."""
    root = tmp_path_factory.mktemp("native")
    return make_split(root / "train", {"ant": 9, "bee": 8, "cow": 6})


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, library):
    """Every kind of file that a folder may have, in odd sizes."""
    root = tmp_path_factory.mktemp("mixed")
    kinds = [
        ("a.jpg", photograph(1, (301, 199)), dict(quality=90)),
        ("b.jpg", photograph(2, (128, 333)), dict(quality=80, subsampling=1)),
        ("c.jpg", photograph(3, (97, 61)), dict(quality=95, subsampling=0)),
        ("d.jpg", photograph(4, (211, 160)), dict(progressive=True)),
        ("e.jpg", photograph(5, (160, 120)).convert("L"), {}),
        ("f.jpg", photograph(6, (140, 150)).convert("CMYK"), {}),
        ("g.jpg", photograph(7, (88, 75)), dict(restart_marker_blocks=3)),
        ("h.png", photograph(8, (64, 50)), {}),
        ("i.bmp", photograph(9, (51, 49)), {}),
        ("j.gif", photograph(10, (45, 60)), {}),
        ("k.jpg", photograph(11, (1000, 700)), dict(quality=70)),
    ]
    (root / "all").mkdir()
    formats = {"jpg": "JPEG", "png": "PNG", "bmp": "BMP", "gif": "GIF"}
    for name, image, options in kinds:
        (root / "all" / name).write_bytes(encoded(image, formats[name[-3:]], **options))
    return root


def train_loader(source, augment, **options) -> TrainLoader:
    loader = TrainLoader(source, augment, **{"batch_size": 4, "num_classes": 3, **options})
    assert loader.backend_info.startswith(OURS)
    return loader


def arrays(batches) -> list[list[np.ndarray]]:
    return list(batches.create_tuple_iterator(output_numpy=True))


def equal(first: list, second: list) -> bool:
    return len(first) == len(second) and all(
        np.array_equal(a, b) for x, y in zip(first, second) for a, b in zip(x, y)
    )


# MindSpore's pixels ----------------------------------------------------------------------------


def test_the_self_test_passes(library):
    assert check_library(library) == []


@pytest.mark.slow
@pytest.mark.parametrize("target", ["x86-64", *reversed(LEVELS)])
def test_every_instruction_set_makes_the_same_images(library, tmp_path, target):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if platform.machine() != "x86_64" or not LEVELS.get(target, set()) <= processor_flags():
        pytest.skip("this processor has fewer instruction sets")
    command = [compiler, *native_library.FLAGS, f"-march={target}", "-o", tmp_path / "images.so"]
    subprocess.run([*command, native_library.SOURCES / "entry.cc", "-ldl"], check=True)
    other = native_library.open_library(tmp_path / "images.so")
    assert check_library(other) == []
    settings = np.zeros(1, SETTINGS)
    settings["training"], settings["height"], settings["width"] = 1, 50, 61
    settings["scale"], settings["ratio"], settings["std"] = (0.1, 1), (0.5, 2), 57.3
    settings["hflip"], settings["mean"], settings["jitter"] = 0.5, 120.7, 0.4
    files = [encoded(photograph(k, (120 + k, 90))) for k in range(20)]
    assert equal([decode_files(other, settings, files)], [decode_files(library, settings, files)])


@pytest.mark.parametrize("size, crop_pct", [(64, 0.875), (33, 0.5), (224, 1.0), ((40, 56), 0.8)])
@pytest.mark.parametrize("cache_mb", [0, 64])
def test_evaluation_equals_mindspores_bit_for_bit(mixed, size, crop_pct, cache_mb):
    source, augment = FolderSource(str(mixed)), Augment(image_resize=size, crop_pct=crop_pct)
    ours = EvalLoader(source, augment, batch_size=4, workers=2, cache_mb=cache_mb)
    assert ours.backend_info.startswith(OURS)
    expected = arrays(EvalLoader(source, augment, batch_size=4, native=False).batches())
    for _ in range(2):  # from the cache the second time
        assert equal(arrays(ours.batches()), expected)


def test_halving_the_size_averages_four_pixels_as_mindspore_does(tmp_path, library):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.jpg").write_bytes(encoded(photograph(1, (128, 128))))
    source, augment = FolderSource(str(tmp_path)), Augment(image_resize=48, crop_pct=0.75)
    loaders = [EvalLoader(source, augment, batch_size=1, native=native) for native in (True, False)]
    assert equal(*(arrays(loader.batches()) for loader in loaders))


@pytest.mark.parametrize("flips", [(0, 0), (1, 0), (0, 1)])
def test_training_without_randomness_equals_mindspores_bit_for_bit(images, flips):
    whole = Augment(
        image_resize=32,
        scale=(1, 1),
        ratio=(1.2, 1.2),  # that of the images
        hflip=flips[0],
        vflip=flips[1],
        color_jitter=None,
    )
    source = FolderSource(str(images))
    ours = train_loader(source, whole).epoch(0)
    theirs = TrainLoader(source, whole, batch_size=4, num_classes=3, native=False).epoch(0)
    assert equal(arrays(ours), arrays(theirs))


@pytest.mark.parametrize(
    "augment, reason",
    [
        (dict(interpolation="bicubic"), "interpolation is bicubic"),
        (dict(color_jitter=(0.1, 0.1, 0.1, 0.1)), "color_jitter changes hues"),
        (dict(aug_splits=3, auto_augment="augmix-m5-w3"), "aug_splits is 3"),
    ],
)
def test_mindspore_does_what_the_library_cannot(images, augment, reason):
    source = FolderSource(str(images))
    loader = TrainLoader(source, Augment(image_resize=16, **augment), batch_size=4, num_classes=3)
    assert loader.backend_info == f"MindSpore's image pipeline: {reason}"


def test_an_operation_that_the_library_does_not_know_is_left_to_mindspore(images, monkeypatch):
    def with_another(*arguments):
        transforms = train_transforms(*arguments)
        return replace(transforms, secondary=[*transforms.secondary, vision.AutoContrast()])

    monkeypatch.setattr("mindcv_ghost.data.pipeline.loader.train_transforms", with_another)
    source = FolderSource(str(images))
    loader = TrainLoader(source, Augment(image_resize=16), batch_size=4, num_classes=3)
    assert not loader.native
    assert "AutoContrast isn't one of the native loader's operations" in loader.backend_info


def test_without_a_compiler_mindspore_makes_the_images_and_the_log_says_why(
    images, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    native_library.loaded.cache_clear()
    source = FolderSource(str(images))
    loader = EvalLoader(source, Augment(image_resize=16), batch_size=23)
    assert (
        loader.backend_info == "MindSpore's image pipeline: CXX is 'no-such-compiler', "
        "which isn't the name or path of a program"
    )
    without = arrays(loader.batches())
    monkeypatch.undo()
    native_library.loaded.cache_clear()
    ours = EvalLoader(source, Augment(image_resize=16), batch_size=23)
    assert ours.backend_info == OURS and equal(without, arrays(ours.batches()))


# Random numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [None, "randaug-m9-mstd0.5"])
def test_threads_and_the_cache_change_no_image(images, policy):
    source, augment = FolderSource(str(images)), Augment(auto_augment=policy, **EVERYTHING)
    loaders = [
        train_loader(source, augment, workers=workers, cache_mb=cache_mb)
        for workers, cache_mb in ((1, 0), (2, 0), (2, 64))
    ]
    first, *others = ([arrays(loader.epoch(k)) for k in (3, 4)] for loader in loaders)
    assert not equal(*first)
    for other in others:
        assert equal(first[0], other[0]) and equal(first[1], other[1])


def test_ranks_together_see_the_images_of_one_rank(images):
    source, augment = FolderSource(str(images)), Augment(image_resize=24)
    alone = arrays(train_loader(source, augment, batch_size=6).epoch(2))
    parts = [
        arrays(train_loader(source, augment, batch_size=3, rank=rank, size=2).epoch(2))
        for rank in range(2)
    ]
    for k, (pixels, labels) in enumerate(alone):
        for rank in range(2):
            assert np.array_equal(pixels[rank::2], parts[rank][k][0])
            assert np.array_equal(labels[rank::2], parts[rank][k][1])


def test_skipping_batches_changes_no_later_batch(images):
    source, augment = FolderSource(str(images)), Augment(**EVERYTHING)
    loader = train_loader(source, augment)
    whole = arrays(loader.epoch(1))
    assert equal(whole[3:], arrays(loader.epoch(1, skip=3)))


def test_the_pipeline_for_sink_mode_is_its_epochs_one_after_another(images):
    loader = train_loader(FolderSource(str(images)), Augment(**EVERYTHING))
    whole = loader.whole_run(1, 2, skip=2).dataset
    assert whole.get_dataset_size() == 8
    expected = arrays(loader.epoch(1))[2:] + arrays(loader.epoch(2))
    assert equal(arrays(whole), expected)


def test_crops_have_the_requested_areas_ratios_and_flips(library):
    across, down = np.meshgrid(np.arange(256), np.arange(256))
    picture = np.stack([across, down, np.full_like(across, 128)], 2).astype(np.uint8)
    file = encoded(Image.fromarray(picture), quality=100, subsampling=0)
    settings = np.zeros(1, SETTINGS)
    settings["training"], settings["height"], settings["width"] = 1, 64, 64
    settings["scale"], settings["ratio"] = (0.2, 0.6), (0.5, 2.0)
    settings["hflip"], settings["vflip"], settings["std"] = 0.5, 0.25, 1
    status, out = decode_files(library, settings, [file] * 600, list(range(600)))
    assert not status.any()
    # A pixel's colours are its coordinates; 63 of 64 steps lie between the outermost pixels.
    width = (out[:, 0, 32, -1] - out[:, 0, 32, 0]) * 64 / 63
    height = (out[:, 1, -1, 32] - out[:, 1, 0, 32]) * 64 / 63
    area, ratio = np.abs(width * height) / 256**2, np.abs(width / height)
    assert 0.18 < area.min() < 0.24 and 0.54 < area.max() < 0.62
    assert 0.36 < area.mean() < 0.42
    assert 0.46 < ratio.min() < 0.6 and 1.7 < ratio.max() < 2.15
    assert 0.44 < (width < 0).mean() < 0.56 and 0.19 < (height < 0).mean() < 0.31
    left = np.minimum(out[:, 0, 32, 0], out[:, 0, 32, -1])
    assert left.min() < 6 and 0.4 < (left / (256 - np.abs(width))).mean() < 0.6


def splitmix(seed: int):
    """The library's random generator in Python."""
    state, wrap = seed, 2**64 - 1
    while True:
        state = (state + 0x9E3779B97F4A7C15) & wrap
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & wrap
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & wrap
        yield ((z ^ (z >> 31)) >> 11) / 2**53


@pytest.mark.parametrize("seed", range(8))
def test_colours_change_by_the_drawn_factors_in_the_drawn_order(library, seed):
    settings = np.zeros(1, SETTINGS)
    settings["training"], settings["height"], settings["width"] = 1, 40, 40
    settings["scale"], settings["ratio"], settings["std"] = (1, 1), (1, 1), 1
    file = encoded(photograph(seed, (40, 40)), quality=95)
    image = decode_files(library, settings, [file], [seed])[1][0].astype(float)
    strength = (0.4, 0.5, 0.6)
    settings["jitter"] = strength
    found = decode_files(library, settings, [file], [seed])[1][0]
    draws = splitmix(seed)
    [next(draws) for _ in range(6)]  # area, ratio, x, y, two flips
    order = [0, 1, 2]
    for k in (2, 1):
        other = int(next(draws) * (k + 1))
        order[k], order[other] = order[other], order[k]
    for which in order:
        factor = 1 - strength[which] + 2 * strength[which] * next(draws)
        grey = np.tensordot([0.299, 0.587, 0.114], image, 1)
        rest = [0, round(grey.mean()), grey][which]
        image = np.clip(np.rint(image * factor + rest * (1 - factor)), 0, 255)
    assert np.abs(found - image).max() <= 3 and np.abs(found - image).mean() < 0.5


# Broken files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 2}], ids=str)
def test_the_fast_check_accepts_complete_files_and_no_truncated_one(library, options):
    data = encoded(photograph(2), **options)
    assert library.loader_is_plain_jpeg(data, len(data))
    for end in range(len(data)):
        assert not library.loader_is_plain_jpeg(data[:end], end), f"cut at {end} of {len(data)}"


def test_mutated_files_that_the_fast_check_accepts_are_images_for_the_full_check(library):
    draw, taken = random.Random(0), 0
    settings = np.zeros(1, SETTINGS)
    settings["training"], settings["height"], settings["width"] = 1, 16, 16
    settings["scale"], settings["ratio"], settings["std"] = (0.1, 1), (0.5, 2), 1
    files = [encoded(photograph(k), quality=60, progressive=k == 3) for k in range(4)]
    for _ in range(1500):
        data = bytearray(draw.choice(files))
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(min(len(data), draw.choice((200, 700, 10**6))))] = draw.randrange(
                256
            )
        data = bytes(data)
        status = decode_files(library, settings, [data], [draw.randrange(2**32)])[0][0]
        assert status in (0, 1)
        if library.loader_is_plain_jpeg(data, len(data)) and status == 0:
            taken += 1
            if not jpeg_is_plain(data):
                try:
                    prepare(data)
                except BadImage as problem:
                    pytest.fail(f"accepted by the fast check, but it {problem}")
    assert taken > 300


# Cache -----------------------------------------------------------------------------------------


def test_a_small_set_is_decoded_once(tmp_path, library):
    root = make_split(tmp_path / "train", {"ant": 5, "bee": 5})
    loader = train_loader(FolderSource(str(root)), Augment(image_resize=16), cache_mb=1)
    assert loader.backend_info == f"{OURS}; decoded images stay in memory"
    full = train_loader(FolderSource(str(root)), Augment(image_resize=16), batch_size=5, cache_mb=1)
    arrays(full.epoch(0))
    assert full._backend._decoder.cache.bytes == 10 * 48 * 40 * 3
    expected = arrays(train_loader(FolderSource(str(root)), Augment(image_resize=16)).epoch(1))
    arrays(loader.epoch(0))
    arrays(loader.epoch(2))
    kept = loader._backend._decoder.cache.bytes
    assert 8 * 5760 <= kept <= 10 * 5760
    assert equal(arrays(loader.epoch(1)), expected)
    for path in root.rglob("*.jpg"):
        path.write_bytes(b"")
    assert len(arrays(full.epoch(1))) == 2


def test_a_set_that_does_not_fit_is_not_cached(tmp_path, library):
    root = tmp_path / "a"
    root.mkdir()
    for k in range(3):
        (root / f"{k}.jpg").write_bytes(encoded(photograph(k, (500, 400))))
    loader = train_loader(FolderSource(str(tmp_path)), Augment(), batch_size=3, cache_mb=1)
    assert loader.backend_info == OURS and loader._backend._decoder.cache is None


def test_the_cache_never_exceeds_its_limit(tmp_path, library):
    """The set's size is estimated from a few images; here those are small ones."""
    root = tmp_path / "a"
    root.mkdir()
    for k in range(100):
        looked_at = k in set(np.linspace(0, 99, 32).astype(int))
        size = (8, 8) if looked_at else (150, 150)
        (root / f"{k:03d}.jpg").write_bytes(encoded(photograph(k, size)))
    options = dict(batch_size=100, num_classes=1)
    loader = train_loader(
        FolderSource(str(tmp_path)), Augment(image_resize=8), cache_mb=1, **options
    )
    plain = train_loader(FolderSource(str(tmp_path)), Augment(image_resize=8), **options)
    for epoch in range(2):
        assert equal(arrays(loader.epoch(epoch)), arrays(plain.epoch(epoch)))
        assert 900_000 < loader._backend._decoder.cache.bytes <= 10**6


def test_the_pixels_of_a_png_equal_pillows(tmp_path, library):
    (tmp_path / "a").mkdir()
    image = photograph(4, (32, 32))
    image.save(tmp_path / "a" / "0.png")
    augment = Augment(image_resize=32, crop_pct=1.0, mean=(0, 0, 0), std=(1, 1, 1))
    (batch,) = arrays(EvalLoader(FolderSource(str(tmp_path)), augment, batch_size=1).batches())
    with Image.open(io.BytesIO(encoded(image, "PNG"))) as opened:
        assert np.array_equal(batch[0][0], np.asarray(opened).transpose(2, 0, 1))
