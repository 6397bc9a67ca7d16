"""Which files reach MindSpore's decoder, and how the others are converted or refused."""

from __future__ import annotations

import io
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from mindcv_ghost.data.sets import image_file
from mindcv_ghost.data.sets.image_file import BadImage, jpeg_is_plain, prepare

from .conftest import encoded, photograph

# A run ignores them, too: image_file sets a filter at import, which pytest replaces.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

PLAIN_OPTIONS = [
    {},
    {"progressive": True},
    {"optimize": True},
    {"subsampling": 0},
    {"subsampling": 1},
    {"quality": 100},
    {"quality": 1},
    {"restart_marker_blocks": 2},
    {"comment": b"a comment"},
    {"progressive": True, "optimize": True, "restart_marker_rows": 1},
]


def pixels(data: np.ndarray) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data.tobytes())).convert("RGB")).astype(int)


@pytest.mark.parametrize("options", PLAIN_OPTIONS, ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_an_ordinary_jpeg_is_passed_on_unchanged(options, mode):
    data = encoded(photograph(1).convert(mode), **options)
    assert jpeg_is_plain(data)
    assert prepare(data).tobytes() == data


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=str)
def test_a_jpeg_truncated_anywhere_never_reaches_the_decoder(options):
    data = encoded(photograph(2), **options)
    for end in range(len(data)):
        assert not jpeg_is_plain(data[:end]), f"cut at {end} of {len(data)}"
        with pytest.raises(BadImage):
            prepare(data[:end])


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_half_a_file_of_any_kind_is_bad(kind):
    data = encoded(photograph(3), kind)
    with pytest.raises(BadImage, match="can't be decoded"):
        prepare(data[: len(data) // 2])


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_a_lossless_image_keeps_its_pixels(kind):
    image = photograph(4)
    assert np.array_equal(pixels(prepare(encoded(image, kind))), np.asarray(image))


def test_cmyk_becomes_rgb_as_pillow_converts_it():
    data = encoded(photograph(5).convert("CMYK"))
    assert not jpeg_is_plain(data)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(pixels(prepare(data)), expected)
    assert np.abs(expected.astype(int) - np.asarray(photograph(5))).mean() < 8  # not inverted


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_to_8_and_not_clipped(kind):
    grey = np.asarray(photograph(6).convert("L"))
    data = encoded(Image.fromarray(grey.astype(np.uint16) * 256 + 128), kind)
    assert np.array_equal(pixels(prepare(data)), np.repeat(grey[:, :, None], 3, axis=2))


def test_transparency_is_dropped():
    image = photograph(7)
    faded = image.copy()
    faded.putalpha(100)
    assert np.array_equal(pixels(prepare(encoded(faded, "PNG"))), np.asarray(image))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1"])
def test_grey_palette_and_bilevel_png_become_rgb(mode):
    image = photograph(8).convert(mode)
    expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(pixels(prepare(encoded(image, "PNG"))), expected)


def test_exif_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    assert pixels(prepare(encoded(photograph(9), exif=exif))).shape == (40, 48, 3)


def test_bytes_after_the_end_of_a_jpeg_do_no_harm():
    data = encoded(photograph(10)) + b"\r\n appended by some tool"
    assert jpeg_is_plain(data)


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"<html>404 not found</html>", "is not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image"),
        (b"\xff\xd8", "is not an image"),
        (encoded(photograph(1).convert("F"), "TIFF"), "floating-point"),
        (
            encoded(Image.new("L", (1_100_000, 10)), "PNG"),
            "format may have 1,048,576",
        ),
        (encoded(Image.new("1", (10_000, 9_000)), "PNG"), "decompression bomb"),
    ],
    ids=["empty", "html", "eps", "two bytes", "float", "ribbon", "bomb"],
)
def test_the_reason_is_given_for_what_cannot_be_decoded(data, reason):
    with pytest.raises(BadImage, match=reason):
        prepare(data)


def with_size(data: bytes, width: int, height: int) -> bytes:
    start = data.index(b"\xff\xc0") + 5
    return data[:start] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[start + 4 :]


def test_a_jpeg_header_with_a_huge_size_is_refused_before_decoding():
    small = encoded(photograph(1))
    assert jpeg_is_plain(with_size(small, 48, 40))
    for width, height in ((65_000, 65_000), (10_000, 9_000), (65_501, 8), (0, 40), (48, 0)):
        data = with_size(small, width, height)
        assert not jpeg_is_plain(data)
        with pytest.raises(BadImage):
            prepare(data)


def test_a_jpeg_of_a_thousand_scans_is_refused():
    data = encoded(photograph(1), progressive=True)
    start = data.index(b"\xff\xda")
    end = data.index(b"\xff", start + 14)
    bomb = data[:start] + data[start:end] * 1000 + data[end:]
    with pytest.raises(BadImage, match="more than 500 scans"):
        prepare(bomb)


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_25_empty_scans_over_81_million_pixels_are_refused_before_decoding(mode, monkeypatch):
    """CMYK is decoded by Pillow, which has no limit on scans: 200 of these took it 11 s."""
    data = encoded(Image.new(mode, (9000, 9000)), progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    ordinary = data.count(b"\xff\xda")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    bomb = data[:-2] + last * (27 - ordinary) + data[-2:]
    with pytest.raises(BadImage, match="27 scans or more over 81,000,000 pixels"):
        prepare(bomb)
    assert jpeg_is_plain(data) == (mode == "RGB")


def damaged_tables() -> dict[str, bytes]:
    data = encoded(photograph(1))
    dht, dqt, sos = (data.index(mark) for mark in (b"\xff\xc4", b"\xff\xdb", b"\xff\xda"))

    def put(place: int, value: int) -> bytes:
        return data[:place] + bytes([value]) + data[place + 1 :]

    return {
        "too many codes of one bit": put(dht + 5, 3),
        "table number 7": put(dht + 4, 7),
        "a difference of 99 bits": put(dht + 21, 99),
        "quantiser number 9": put(dqt + 4, 9),
        "segment longer than it is": put(dht + 3, 250),
        "unknown component in the scan": put(sos + 5, 77),
        "missing Huffman table": put(sos + 6, 0x33),
        "12 bits": put(data.index(b"\xff\xc0") + 4, 12),
        "arithmetic coding": put(data.index(b"\xff\xc0") + 1, 0xC9),
        "fractional sampling": put(data.index(b"\xff\xc0") + 14, 0x31),
        "no quantisers": data[:dqt] + data[data.index(b"\xff\xc0") :],
        "no end": data[:-2],
        "another file's scan inside": data[:-40] + data,
    }


@pytest.mark.parametrize("case", damaged_tables())
def test_a_jpeg_with_a_damaged_table_never_reaches_the_decoder(case):
    assert not jpeg_is_plain(damaged_tables()[case])


DECODE = """
import os, sys, pickle
os.environ["GLOG_v"] = "4"
import numpy as np
from mindspore.dataset import vision
decode = vision.Decode()
fused = vision.RandomCropDecodeResize(16, scale=(0.08, 1.0), ratio=(0.75, 1.333))
for data in pickle.load(open(sys.argv[1], "rb")):
    image = np.frombuffer(data, np.uint8)
    assert decode(image).shape[2] == 3 and fused(image).shape == (16, 16, 3)
print("all decoded")
"""


def test_files_that_pass_the_check_never_crash_or_hang_the_decoder(tmp_path):
    import pickle

    draw = random.Random(7)
    bases = [
        encoded(photograph(k, size).convert(mode), **options)
        for k, options in enumerate(PLAIN_OPTIONS)
        for size in ((48, 40), (17, 9))
        for mode in ("RGB", "L")
    ]
    passed = list(bases)
    while len(passed) < 400:
        data = bytearray(draw.choice(bases))
        header = data.rindex(b"\xff\xda") + 12
        for _ in range(draw.choice([1, 1, 2, 5])):
            data[draw.randrange(2, header)] = draw.choice([0, 1, 255, draw.randrange(256)])
        if jpeg_is_plain(bytes(data)):
            passed.append(bytes(data))
    (tmp_path / "images").write_bytes(pickle.dumps(passed))
    done = subprocess.run(
        [sys.executable, "-c", DECODE, tmp_path / "images"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert done.stdout.endswith("all decoded\n"), done.stderr
    assert [path.name for path in Path(tmp_path).iterdir()] == ["images"]


def test_mutated_images_of_every_kind_raise_only_bad_image():
    draw = random.Random(11)
    image = photograph(12)
    bases = [encoded(image, kind) for kind in image_file._FORMATS]
    bases += [encoded(image.convert("P"), kind) for kind in ("PNG", "GIF", "BMP")]
    good = 0
    for _ in range(1500):
        data = bytearray(draw.choice(bases))
        for _ in range(draw.choice([1, 2, 6])):
            data[draw.randrange(min(len(data), draw.choice([32, 200, 10**6])))] = draw.randrange(
                256
            )
        data = bytes(data[: draw.choice([len(data), draw.randrange(1, len(data))])])
        try:
            start = prepare(data)[:2].tobytes()
        except BadImage:
            continue
        good += 1
        assert start in (b"BM", b"\xff\xd8")
    assert good > 50
