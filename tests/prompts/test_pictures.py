"""Pictures are checked before anything decodes them: size, pixels, damage, bombs."""

from __future__ import annotations

import base64
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.errors import UsageError
from etui.prompts import pictures
from etui.prompts.pictures import is_picture, read_picture
from tests.support.tiny_projector import join_png, make_jpeg, write_png


def test_a_picture_knows_its_size_and_its_mark():
    found = read_picture(write_png(30, 20), "it")
    assert (found.width, found.height) == (30, 20)
    assert found.mark == f"[picture {found.sha256[:16]}]"
    assert base64.b64decode(found.data) == write_png(30, 20)
    assert read_picture(make_jpeg(20, 10), "it").width == 20
    assert read_picture(make_jpeg(20, 10, 0xC2), "it").height == 10


def test_interlaced_pixels_are_read():
    data = join_png(8, 8, zlib.compress(bytes(8 * 25 + 15)), interlaced=1)
    assert read_picture(data, "it").width == 8


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GIF89a", "no PNG or JPEG"),
        (b"", "no PNG or JPEG"),
        (write_png()[:-20], "damaged"),
        (write_png()[:60] + b"\0" + write_png()[61:], "checksum"),
        (join_png(40, 40, zlib.compress(b"x" * 100)), "fewer pixels"),
        (join_png(40, 40, b"nothing"), "damaged"),
        (join_png(0, 40, zlib.compress(b"x")), "no pixels"),
        (join_png(100_000, 100_000, zlib.compress(b"x")), "more than 25,000,000"),
        (make_jpeg(60_000, 60_000), "more than 25,000,000"),
        (make_jpeg(end=b""), "cut off"),
        (make_jpeg(kind=0xC3), "rare"),
        (make_jpeg()[:12], "damaged"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_sentence(data, why):
    with pytest.raises(UsageError, match=why) as raised:
        read_picture(data, "it.png")
    assert raised.value.fix


def test_a_bomb_is_stopped_at_what_its_size_allows():
    bomb = join_png(10, 10, zlib.compress(bytes(50_000_000), 9))
    assert len(bomb) < 60_000
    with pytest.raises(UsageError, match="more pixels than its size"):
        read_picture(bomb, "it")


def test_too_many_bytes_are_refused(monkeypatch):
    monkeypatch.setattr(pictures, "MOST_BYTES", 100)
    with pytest.raises(UsageError, match="more than 100"):
        read_picture(write_png(), "it")


@given(st.integers(0, 400), st.integers(1, 255))
def test_any_flipped_byte_is_read_or_refused(at, change):
    data = bytearray(write_png(6, 6))
    data[at % len(data)] ^= change
    with suppress(UsageError):
        assert read_picture(bytes(data), "it").width == 6


@given(st.binary(max_size=200))
def test_any_bytes_behind_a_beginning_are_refused(data):
    for begin in (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"):
        assert is_picture(begin + data)
        with suppress(UsageError):
            read_picture(begin + data, "it")
