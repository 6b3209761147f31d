"""Pictures of a question: check a file before anything decodes it, and know its size."""

from __future__ import annotations

import base64
import hashlib
import struct
import zlib
from collections.abc import Iterator

from etui.chat import Picture
from etui.errors import UsageError

MOST_BYTES = 10_000_000
MOST_PIXELS = 25_000_000
"""A model sees a copy of at most a few megapixels; decoding takes 3 to 12 bytes a pixel."""
MOST_PICTURES = 16
"""Most pictures of a conversation."""

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_JPEG_SIZES = (0xC0, 0xC1, 0xC2)
"""Segments with the size: of baseline, extended and progressive JPEG, which llama.cpp reads."""
_JPEG_BARE = (0x01, *range(0xD0, 0xD8))
_PIECE = 2**16


class _DamagedError(ValueError):
    """The file is not what its format says."""


def is_picture(data: bytes) -> bool:
    """Return whether a file begins as a picture that a model may read."""
    return data.startswith((_PNG, _JPEG))


def read_picture(data: bytes, name: str) -> Picture:
    """Check a PNG or JPEG file.

    The compressed pixels of a PNG are inflated here, up to what its size allows: the decoder would
    go on without a bound.

    Raises:
        UsageError: It is damaged, too large, or of another format.
    """
    if len(data) > MOST_BYTES:
        what = f"{name} has {len(data):,} bytes, more than {MOST_BYTES:,}"
        raise UsageError(what, "save a smaller copy of it")
    try:
        if data.startswith(_PNG):
            width, height = _measure_png(data, name)
        elif data.startswith(_JPEG):
            width, height = _measure_jpeg(data)
            _check_size(width, height, name)
        else:
            raise UsageError(f"{name} is no PNG or JPEG picture", "save it as PNG or JPEG")
    except (_DamagedError, struct.error, zlib.error, IndexError) as error:
        raise UsageError(f"{name} is damaged: {error}", "save it again as PNG or JPEG") from None
    encoded = base64.b64encode(data).decode("ascii")
    return Picture(encoded, hashlib.sha256(data).hexdigest(), width, height)


def _check_size(width: int, height: int, name: str) -> None:
    if not width or not height:
        raise _DamagedError("it has no pixels")
    if width * height > MOST_PIXELS:
        what = f"{name} has {width:,} x {height:,} pixels, more than {MOST_PIXELS:,} in all"
        raise UsageError(what, "save a smaller copy of it")


def _measure_png(data: bytes, name: str) -> tuple[int, int]:
    chunks = list(_iter_png(data))
    if not chunks or chunks[0][0] != b"IHDR" or chunks[-1][0] != b"IEND":
        raise _DamagedError("it is cut off")
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    _check_size(width, height, name)
    if colour not in _PNG_CHANNELS or depth not in (1, 2, 4, 8, 16):
        raise _DamagedError("its kind of pixels is unknown")
    row = (width * depth * _PNG_CHANNELS[colour] + 7) // 8 + 1
    least = most = row * height
    if interlaced:  # seven smaller pictures, each row with a byte of its own
        least, most = 1, 2 * most + 64
    inflater, count = zlib.decompressobj(), 0
    for kind, body in chunks:
        while kind == b"IDAT" and body and not inflater.eof:
            count += len(inflater.decompress(body, _PIECE))
            body = inflater.unconsumed_tail
            if count > most:
                raise _DamagedError("it has more pixels than its size says")
    if not inflater.eof or count < least:
        raise _DamagedError("it has fewer pixels than its size says")
    return width, height


def _iter_png(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks of a PNG, whose sums are checked."""
    at = len(_PNG)
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        body = data[at + 8 : end]
        if zlib.crc32(kind + body) != struct.unpack_from(">I", data, end)[0]:
            raise _DamagedError("the checksum of a part is wrong")
        yield kind, body
        if kind == b"IEND":
            return
        at = end + 4


def _measure_jpeg(data: bytes) -> tuple[int, int]:
    at, size = 2, None
    while True:
        if data[at] != 0xFF:
            raise _DamagedError("a part of it is missing")
        marker = data[at + 1]
        if marker == 0xFF:  # filler
            at += 1
            continue
        if marker in _JPEG_BARE:
            at += 2
            continue
        if marker == 0xDA:  # the pixels
            break
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            size = width, height
        elif 0xC3 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            raise _DamagedError("its kind of JPEG is rare, and cannot be read")
        at += 2 + max(2, length)
    if size is None or data.rfind(b"\xff\xd9") < at:
        raise _DamagedError("it is cut off")
    return size
