"""Mutated images, repeatable by a seed."""

from __future__ import annotations

import random
import struct
import zlib

import numpy as np
from PIL import Image, ImageDraw, PngImagePlugin

from tests.data.conftest import encoded, photograph
from tests.data.test_image_file import PLAIN_OPTIONS


def converted(mode: str) -> Image.Image:
    if mode != "I;16":
        return photograph(31).convert(mode)
    return Image.fromarray(np.asarray(photograph(31).convert("L")).astype(np.uint16) * 257)


def bases() -> list[bytes]:
    """Small images of all common kinds, mostly JPEG, PNG and BMP."""
    made = [
        encoded(photograph(k, size).convert(mode), **options)
        for k, options in enumerate(PLAIN_OPTIONS)
        for size in ((48, 40), (17, 9))
        for mode in ("RGB", "L", "CMYK")
    ]
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a text" * 20
    made.append(encoded(photograph(30), exif=exif, icc_profile=b"profile" * 50))
    text = PngImagePlugin.PngInfo()
    text.add_text("k", "v" * 200, zip=True)
    text.add_itxt("i", "v" * 200, zip=True)
    modes_of = {"PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), "BMP": ("1", "L", "P")}
    for kind, modes in modes_of.items():
        made += [encoded(converted(mode), kind) for mode in modes] * 3
    made += [encoded(photograph(32), "BMP"), encoded(photograph(32).convert("RGBA"), "BMP")] * 3
    made.append(encoded(photograph(33), "PNG", pnginfo=text, exif=exif, icc_profile=b"p" * 300))
    frames = [photograph(k) for k in range(34, 37)]
    for kind in ("PNG", "GIF", "WEBP", "TIFF"):
        made.append(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    made += [encoded(photograph(38), kind) for kind in ("PPM", "WEBP", "TIFF")]
    made += [encoded(photograph(39), "TIFF", compression=c) for c in ("jpeg", "tiff_lzw", "zip")]
    return made


def mutated(base: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """An image with bytes changed, removed, duplicated, exchanged, truncated or appended."""
    data = bytearray(base)
    reach = draw.choice([32, 200, 700, 10**6])  # most errors are in the header
    for _ in range(draw.choice([1, 1, 2, 3, 8])):
        start = draw.randrange(min(len(data), reach) or 1)
        kind = draw.randrange(8)
        if kind < 4 and data:
            data[start] = draw.choice([0, 1, 127, 128, 255, draw.randrange(256)])
        elif kind == 4:
            del data[start : start + draw.choice([1, 2, 16, 300])]
        elif kind == 5:
            piece = data[start : start + draw.choice([1, 8, 200])]
            data[start:start] = piece * draw.choice([1, 1, 3, 100])
        elif kind == 6:
            other = draw.choice(others)
            place = draw.randrange(len(other))
            data[start : start + 64] = other[place : place + draw.choice([2, 64, 5000])]
        else:
            marker = draw.choice([0xC0, 0xC1, 0xC2, 0xC4, 0xD0, 0xD8, 0xD9, 0xDA, 0xDB, 0xDD, 0xE1])
            data[start : start + 2] = bytes([0xFF, marker])
    end = draw.random()
    if end < 0.1:
        del data[draw.randrange(len(data) + 1) :]
    elif end < 0.15:
        data += draw.choice(others)
    if data[:4] == b"\x89PNG" and draw.random() < 0.8:
        return with_correct_crcs(bytes(data))
    return bytes(data)


def with_correct_crcs(png: bytes) -> bytes:
    """Correct the CRC of each chunk; otherwise nearly every mutated PNG would be refused for it."""
    data, position = bytearray(png), 8
    while position + 12 <= len(data):
        length = struct.unpack_from(">I", data, position)[0]
        end = position + 8 + length
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[position + 4 : end]))
        position = end + 4
    return bytes(data)


def crafted() -> list[bytes]:
    """Files whose headers claim far more data than there is, in each format of the mutations."""
    made = []
    for width, height in ((65535, 65535), (65535, 1), (9000, 9000), (0, 5), (2**31 - 1, 2**31 - 1)):
        png = bytearray(encoded(photograph(1), "PNG"))
        png[16:24] = struct.pack(">II", width, height)
        bmp = bytearray(encoded(photograph(1), "BMP"))
        bmp[18:26] = struct.pack("<ii", width, height)
        made += [with_correct_crcs(bytes(png)), bytes(bmp)]
        bmp[18:26] = struct.pack("<ii", -width, -height)
        made.append(bytes(bmp))
        if max(width, height) < 2**16:
            for options in ({}, {"progressive": True}):
                jpeg = bytearray(encoded(photograph(1), **options))
                place = max(jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc2")) + 5
                jpeg[place : place + 4] = struct.pack(">HH", height, width)
                made.append(bytes(jpeg))
    for chunk in (b"zTXt", b"iTXt", b"iCCP"):
        body = b"k\0\0" if chunk != b"iTXt" else b"k\0\1\0\0\0"
        body = chunk + body + zlib.compress(bytes(100 * 2**20), 9)
        png = encoded(photograph(1), "PNG")
        bomb = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        made += [png[:33] + bomb + png[33:], png[:-12] + bomb + png[-12:]]
    wide = Image.new("RGB", (4000, 3000))
    ImageDraw.Draw(wide).ellipse((10, 10, 3000, 2000), fill="red")
    made += [encoded(wide, kind) for kind in ("JPEG", "PNG", "BMP")]
    return made
