"""Check an image file before MindSpore's decoder sees it.

MindSpore 2.8's JPEG decoder ends the process (SIGFPE, SIGSEGV) or loops forever on a file that is
truncated inside its header, and its fused decode-and-crop silently accepts half a file. So every
file is checked first, here, in pure Python.

``prepare`` passes on an ordinary, structurally complete JPEG as it is. Everything else (PNG, BMP,
WebP, CMYK, 16 bits, transparency, arithmetic coding, an odd header, a missing end) is decoded by
Pillow and passed on as an uncompressed BMP, which the C++ decoder reads exactly and fast. A file
that Pillow refuses is bad, and the reason is Pillow's.

Measured on 2 cores: the check of a photograph of 90 kB takes about 35 us, most of it the search
through the scan; decoding takes 1,000 to 2,000 us. (Decoding every image by Pillow would slow
training by a fifth.) 12,000 JPEGs passed the check after bytes of their headers, tables and scans
were changed, cut out, doubled or exchanged: none crashed or hung the decoder. One file, truncated
at every seventh byte from 168 to 609 of its header, did so every time.
"""

from __future__ import annotations

import functools
import io
import os
import re
import stat
import struct
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

__all__ = [
    "MAX_ASPECT",
    "MAX_FILE_BYTES",
    "MAX_JPEG_SIDE",
    "MAX_PIXELS",
    "MAX_SCANNED_PIXELS",
    "MAX_SCANS",
    "MAX_SIDE",
    "BadImage",
    "as_rgb",
    "central_part",
    "decode",
    "image_size",
    "jpeg_is_plain",
    "prepare",
    "read_file",
]

# Pillow's own limit against decompression bombs: 256 MiB decoded. One such image costs a reading
# thread up to 0.8 GB (progressive JPEG, 4:4:4) in MindSpore's decoder and 1.0 (CMYK) in Pillow.
MAX_PIXELS = 89_478_485
MAX_SIDE = 2**20  # of OpenCV 4.11, which decodes BMP for MindSpore 2.8
MAX_JPEG_SIDE = 65_500  # libjpeg's JPEG_MAX_DIMENSION
# Evaluation resizes the short side and crops the centre, so it sees little of a ribbon. Of a longer
# one only the centre of this aspect is resized: the whole of 3,000 x 1 pixels would become
# 768,000 x 256 (590 MB), and of 65,500 x 1 13 GB.
MAX_ASPECT = 100
MAX_FILE_BYTES = 256 * 2**20  # the largest image as uncompressed BMP
MAX_SCANS = 500  # cameras and encoders make up to about 20; each costs a pass over all pixels
# Pixels times scans, 24 scans of the largest image: 1.1 MB of empty scans over 89 million pixels
# kept MindSpore's decoder busy for 22 s (400 of them) and Pillow for 11 s (200, four colours).
MAX_SCANNED_PIXELS = 2**31

# "Corrupt EXIF data" and the like, for many files of ImageNet; real errors are exceptions.
warnings.filterwarnings("ignore", module=r"PIL\.")

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")  # not EPS, which is a program
_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_DHT, _EOI, _SOS, _DQT, _DRI, _COM = 0xC4, 0xD9, 0xDA, 0xDB, 0xDD, 0xFE


class BadImage(Exception):
    """This file can't be decoded; the text says why."""


class _NotPlain(Exception):
    """Something in this JPEG is unusual: leave it to Pillow."""


def read_file(path: str) -> bytes:
    """Read a whole file. Never blocks on a pipe or device that has an image's name.

    Raises:
        BadImage: if it isn't a regular file, or is too large.
        OSError: if it can't be read.
    """
    with open(path, "rb", buffering=0, opener=_open_nonblocking) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise BadImage("is not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise BadImage(f"has {status.st_size:,} bytes, the limit is {MAX_FILE_BYTES:,}")
        return file.read()


def _open_nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def prepare(data: bytes) -> np.ndarray:
    """Return encoded bytes that MindSpore's decoder reads safely.

    Args:
        data: the whole file.

    Returns:
        uint8 array (bytes,): the file itself, or a BMP with the same pixels.

    Raises:
        BadImage: if the file can't be decoded.
    """
    if jpeg_is_plain(data):
        return np.frombuffer(data, np.uint8)
    return np.frombuffer(_as_bmp(_decoded(data)), np.uint8)


def decode(data: bytes) -> np.ndarray:
    """Decode by Pillow.

    Args:
        data: the whole file.

    Returns:
        RGB, uint8 (H, W, 3), C-contiguous.

    Raises:
        BadImage: if the file can't be decoded.
    """
    return np.array(_decoded(data))


def image_size(data: np.ndarray) -> tuple[int, int]:
    """Read width and height from the header of what :func:`prepare` returned."""
    file = memoryview(data.data)
    if file[0] == 0x42:  # "BM"
        width, height = struct.unpack_from("<2i", file, 18)
        return width, abs(height)
    position = 2
    while file[position + 1] not in (_BASELINE, _EXTENDED, _PROGRESSIVE):
        position += 2 + struct.unpack_from(">H", file, position + 2)[0]
    height, width = struct.unpack_from(">2H", file, position + 5)
    return width, height


def central_part(data: np.ndarray) -> np.ndarray:
    """Cut the middle out of an image whose sides differ by more than :data:`MAX_ASPECT` times.

    What is left has the same centre, so that a centre crop of at most this aspect sees the same.
    ``plan_for`` in ``data/native/cpp/entry.cc`` does the same.

    Args:
        data: what :func:`prepare` returned.

    Returns:
        uint8 array (bytes,): ``data`` itself, or a BMP.
    """
    width, height = image_size(data)
    if max(width, height) <= MAX_ASPECT * min(width, height):
        return data
    across, down = _middle(width, height), _middle(height, width)
    part = _decoded(data.tobytes()).crop((across[0], down[0], across[1], down[1]))
    return np.frombuffer(_as_bmp(part), np.uint8)


def _middle(side: int, other: int) -> tuple[int, int]:
    """First and last + 1 of the pixels of a side that are kept; as many are cut at either end."""
    cut = max(0, side - MAX_ASPECT * other) // 2
    return cut, side - cut


def jpeg_is_plain(data: bytes) -> bool:
    """Whether ``data`` is a complete 8-bit Huffman-coded grey or three-colour JPEG.

    Walks the segments and checks every table that a decoder uses (its size, its number, that the
    Huffman codes fit), and that the scan's data reach an end marker. Data inside a scan that were
    replaced by other data can't be detected, here or by any decoder.
    """
    try:
        _walk(data)
    except (_NotPlain, IndexError, struct.error):
        return False
    return True


def _walk(data: bytes) -> None:
    """Walk the segments up to the end marker.

    Raises:
        _NotPlain: for anything unusual.
        BadImage: for a decompression bomb.
    """
    if data[:2] != b"\xff\xd8":
        raise _NotPlain
    position, scans = 2, 0
    frame: _Frame | None = None
    quantizers: set[int] = set()
    codes: set[int] = set()
    seen: set[int] = set()
    while True:
        if data[position] != 0xFF:
            raise _NotPlain
        marker = data[position + 1]
        if marker == _EOI:
            break
        length = data[position + 2] << 8 | data[position + 3]
        body = data[position + 4 : position + 2 + length]
        if length < 2 or len(body) != length - 2:
            raise _NotPlain
        position += 2 + length
        if 0xE0 <= marker <= 0xEF or marker == _COM or (marker == _DRI and length == 4):
            continue
        if marker == _DQT:
            quantizers |= _quantizers(body)
        elif marker == _DHT:
            codes |= _huffman_codes(body)
        elif marker in (_BASELINE, _EXTENDED, _PROGRESSIVE) and frame is None:
            frame = _Frame(marker, body)
        elif marker == _SOS and frame is not None:
            seen |= _scan(body, frame, quantizers, codes)
            scans += 1
            _refuse_scans(scans, frame.pixels)
            found = _next_marker(data, position)
            if found is None:
                raise _NotPlain
            position = found.start()
        else:
            raise _NotPlain
    if frame is None or seen != set(frame.components):
        raise _NotPlain


# Inside a scan 0xFF is data if 0x00 follows, and a restart marker if 0xD0..0xD7 does.
_next_marker = re.compile(rb"\xff[^\x00\xd0-\xd7]").search


class _Frame:
    """The frame header (SOF): size, components, progressive or not."""

    def __init__(self, marker: int, body: bytes):
        precision, height, width, count = struct.unpack_from(">BHHB", body)
        if precision != 8 or count not in (1, 3) or len(body) != 6 + 3 * count:
            raise _NotPlain
        if _size_problem(width, height, MAX_JPEG_SIDE):
            raise _NotPlain
        self.pixels = width * height
        self.progressive = marker == _PROGRESSIVE
        self.components = {body[6 + 3 * k]: body[8 + 3 * k] for k in range(count)}
        across = [body[7 + 3 * k] >> 4 for k in range(count)]
        down = [body[7 + 3 * k] & 15 for k in range(count)]
        if len(self.components) != count or not all(1 <= k <= 4 for k in across + down):
            raise _NotPlain
        # libjpeg supports integer sampling ratios only, and at most 10 blocks in a unit.
        if any(max(across) % k for k in across) or any(max(down) % k for k in down):
            raise _NotPlain
        if sum(across[k] * down[k] for k in range(count)) > 10:
            raise _NotPlain


def _quantizers(body: bytes) -> set[int]:
    """Return the numbers of the quantisation tables that a DQT segment defines."""
    found: set[int] = set()
    position = 0
    while position < len(body):
        wide, number = body[position] >> 4, body[position] & 15
        position += 129 if wide else 65
        if wide > 1 or number > 3:
            raise _NotPlain
        found.add(number)
    if position != len(body):
        raise _NotPlain
    return found


@functools.lru_cache(maxsize=1024)  # most files share a few tables: 1 us instead of 12
def _huffman_codes(body: bytes) -> frozenset[int]:
    """Return the numbers of the Huffman tables (+16 for AC) that a DHT segment defines."""
    found: set[int] = set()
    position = 0
    while position < len(body):
        kind, number = body[position] >> 4, body[position] & 15
        counts = body[position + 1 : position + 17]
        symbols = body[position + 17 : position + 17 + sum(counts)]
        position += 17 + sum(counts)
        if kind > 1 or number > 3 or len(counts) != 16 or sum(counts) > 256:
            raise _NotPlain
        if not kind and symbols and max(symbols) > 15:
            raise _NotPlain
        space = 0  # used of the 65,536 codes of 16 bits; the last one (all ones) is reserved
        for bits, count in enumerate(counts, 1):
            space += count << (16 - bits)
            if space > 65536 - (1 << (16 - bits)) * bool(count):
                raise _NotPlain
        found.add(kind * 16 + number)
    if position != len(body):
        raise _NotPlain
    return frozenset(found)


def _scan(body: bytes, frame: _Frame, quantizers: set[int], codes: set[int]) -> set[int]:
    """Check a scan header (SOS) against the tables so far; return the components in the scan."""
    count = body[0]
    if not 1 <= count <= 3 or len(body) != 4 + 2 * count:
        raise _NotPlain
    first, last, bits = body[-3], body[-2], body[-1]
    high, low = bits >> 4, bits & 15
    if frame.progressive:
        fits = last == 0 if first == 0 else first <= last <= 63 and count == 1
        if not fits or low > 13 or (high and low != high - 1):
            raise _NotPlain
    elif (first, last, bits) != (0, 63, 0):
        raise _NotPlain
    seen = set()
    for k in range(count):
        component, tables = body[1 + 2 * k], body[2 + 2 * k]
        needs_dc, needs_ac = first == 0 and not high, last > 0
        if component not in frame.components or component in seen:
            raise _NotPlain
        if frame.components[component] not in quantizers:
            raise _NotPlain
        if needs_dc and tables >> 4 not in codes:
            raise _NotPlain
        if needs_ac and 16 + (tables & 15) not in codes:
            raise _NotPlain
        seen.add(component)
    return seen


def _refuse_scans(scans: int, pixels: int) -> None:
    """Raise BadImage for a JPEG with so many scans that decoding takes too long."""
    if scans > MAX_SCANS:
        raise BadImage(f"has more than {MAX_SCANS} scans, which would take hours to decode")
    if scans * pixels > MAX_SCANNED_PIXELS:
        raise BadImage(
            f"has {scans} scans or more over {pixels:,} pixels, more than the limit of "
            f"{MAX_SCANNED_PIXELS:,} scanned pixels against decompression bombs; save it again"
        )


def _size_problem(width: int, height: int, max_side: int) -> str:
    """Say why an image of this size is refused; an empty string if it isn't."""
    if not width or not height:
        return f"is {width} x {height} pixels"
    if width * height > MAX_PIXELS:
        return (
            f"is {width} x {height} pixels, more than the limit of {MAX_PIXELS:,} against "
            "decompression bombs; scale it down (or raise MAX_PIXELS in data/sets/image_file.py)"
        )
    if max(width, height) > max_side:
        return f"is {width} x {height} pixels; a side of this format may have {max_side:,}: crop it"
    return ""


def _as_bmp(image: Image.Image) -> memoryview:
    """Encode 8-bit RGB as an uncompressed BMP."""
    out = io.BytesIO()
    image.save(out, "BMP")
    return out.getbuffer()  # getvalue() would copy: 268 MB for the largest image


def _decoded(data: bytes) -> Image.Image:
    """Decode the whole image with Pillow, to 8-bit RGB."""
    if not data:
        raise BadImage("is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            limit = MAX_JPEG_SIDE if image.format == "JPEG" else MAX_SIDE
            problem = _size_problem(image.width, image.height, limit)
            if problem:
                raise BadImage(problem)
            if data.startswith(b"\xff\xd8"):  # inside a scan 0xFF is never followed by 0xDA
                _refuse_scans(data.count(b"\xff\xda"), image.width * image.height)
            image.load()
            return as_rgb(image)
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BadImage(f"is not an image ({', '.join(_FORMATS)} are read)") from None
    except Image.DecompressionBombError:
        raise BadImage(f"has more than {2 * MAX_PIXELS:,} pixels: a decompression bomb?") from None
    except Exception as error:  # Pillow's plug-ins raise nearly anything on hostile files
        raise BadImage(f"can't be decoded: {error or type(error).__name__}") from error


def as_rgb(image: Image.Image) -> Image.Image:
    """Convert any image of Pillow's to 8-bit RGB.

    16 bits are scaled to 8 (Pillow's own conversion would clip them). Transparency is dropped and
    EXIF orientation ignored, as MindCV, MindSpore and timm do, so that weights trained with one fit
    all of them. CMYK, also Adobe's inverted kind, is converted by Pillow.

    Raises:
        BadImage: if the image holds numbers whose range is unknown.
    """
    if image.mode == "F":
        raise BadImage("holds floating-point values, whose range is unknown; save it with 8 bits")
    if image.mode.startswith("I"):  # I, I;16, I;16B: grey of PNG, TIFF and PGM
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise BadImage("holds 32-bit values, whose range is unknown; save it with 8 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")
