"""Read and check the header of a GGUF file in pure Python, before llama.cpp loads it.

Layout (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): magic ``GGUF``, version u32,
tensor count u64, metadata count u64, the metadata, the tensor table, padding to the alignment, the
tensor data. Only versions 2 and 3 (little endian) are read, as in llama.cpp.
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path

from etui.errors import ModelUnavailable
from etui.models.gguf_header import Array, Gguf, Scalar, Tensor
from etui.models.gguf_types import ARRAY, BOOL, SCALARS, STRING, TENSOR_TYPES

_MAGIC = b"GGUF"
_HEADER_BYTES = 24
_MOST_KEYS = 1 << 16
_MOST_TENSORS = 1 << 17
_MOST_ELEMENTS = 1 << 24  # in an array; the largest vocabularies have 2^18 tokens
_MOST_STRING = 1 << 24
_MOST_STRINGS = 1 << 22  # in all arrays together: a vocabulary and its merges
_MOST_KEPT_BYTES = 1 << 26  # of all keys, texts and short arrays: most are chat templates
_KEPT_ELEMENTS = 1024  # the values of longer arrays (vocabularies) are skipped
_LEAST_KEY_BYTES = 8 + 4 + 1  # an empty key and a value of one byte
_LEAST_TENSOR_BYTES = 8 + 4 + 4 + 8  # an empty name and no dimension
_LEAST_STRING_BYTES = 8
_MOST_WEIGHTS = 1 << 48  # of one tensor
_BYTES_PER_VALUE = 64  # of a Python number in a tuple, generously
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


def check_usable(path: Path) -> Gguf:
    """Read a GGUF header and check that llama.cpp can load the file without aborting.

    Raises:
        ModelUnavailable: As in :func:`check_gguf`, or the header describes no model that can run.
    """
    gguf = check_gguf(path)
    if fault := gguf.find_fault():
        raise _refuse(path, fault)
    return gguf


def check_gguf(path: Path) -> Gguf:
    """Read a GGUF header and check that the file contains all the data of its tensors.

    Raises:
        ModelUnavailable: The file is missing, not a GGUF, of an unsupported version, damaged or
            truncated.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            start = file.read(_HEADER_BYTES)
            if start[:4] != _MAGIC:
                raise _refuse(path, _describe_start(start, size))
            if size < _HEADER_BYTES:
                raise _refuse(path, f"is truncated: it has {size} bytes, less than a header")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return parse(path, data, size)
    except OSError as error:
        raise ModelUnavailable(
            f"cannot read the model file {path}: {error.strerror or error}",
            "`etui models list` shows the models on disk; `etui models pull` downloads others",
        ) from error


def parse(path: Path, data: bytes | mmap.mmap, size: int) -> Gguf:
    """Parse the header in ``data``, a file of ``size`` bytes; ``path`` is for messages.

    Raises:
        ModelUnavailable: As in :func:`check_gguf`.
    """
    try:
        return _parse(path, _Cursor(data), size)
    except _ImplausibleError as error:
        raise _refuse(path, f"is damaged: {error}") from None
    except _EndError as error:
        raise _refuse(
            path, f"is truncated: it ends at byte {size}, in its header ({error})"
        ) from None


def _parse(path: Path, cursor: _Cursor, size: int) -> Gguf:
    cursor.at = len(_MAGIC)
    version = cursor.u32()
    if version not in (2, 3):
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        kind = "is big endian" if swapped in (2, 3) else f"has GGUF version {version}"
        raise _refuse(path, f"{kind}; versions 2 and 3 (little endian) are supported")
    tensor_count = cursor.plausible("tensors", _MOST_TENSORS)
    key_count = cursor.count("metadata keys", _MOST_KEYS, _LEAST_KEY_BYTES)
    cursor.check_room("tensors", tensor_count, _LEAST_TENSOR_BYTES)
    metadata: dict[str, Scalar | Array] = {}
    for _ in range(key_count):
        key = cursor.string()
        if key in metadata:
            raise _ImplausibleError(f"the metadata key {key[:80]!r} appears twice")
        metadata[key] = cursor.value(cursor.u32())
    rows = [cursor.tensor() for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise _ImplausibleError(f"its alignment is {alignment!r:.40}, not a power of two")
    data_start = _pad(cursor.at, alignment)
    tensors = _locate_tensors(rows, data_start, alignment)
    ends = [tensor.offset + (tensor.size_bytes or 0) for tensor in tensors]
    needed = max(ends, default=0)
    if needed > size:
        raise _refuse(
            path, f"is truncated: its tensors need {needed} bytes, but the file has {size}"
        )
    return Gguf(path, version, size, metadata, tensors)


_Row = tuple[str, tuple[int, ...], int, int]


def _locate_tensors(rows: list[_Row], data_start: int, alignment: int) -> tuple[Tensor, ...]:
    """Build the tensors with absolute offsets."""
    expected: int | None = 0
    placed: list[Tensor] = []
    for name, shape, kind, offset in rows:
        if expected is not None and offset != expected:
            raise _ImplausibleError(
                f"tensor {name[:80]!r} starts at {offset}, but {expected} is expected"
            )
        elements = math.prod(shape)
        if elements > _MOST_WEIGHTS:
            raise _ImplausibleError(f"tensor {name[:80]!r} claims {elements} elements")
        label, block, block_bytes = TENSOR_TYPES.get(kind, (f"type {kind}", 1, 0))
        if shape and shape[0] % block:
            raise _ImplausibleError(
                f"tensor {name[:80]!r} has rows of {shape[0]}, not a multiple of {block}"
            )
        bytes_ = elements // block * block_bytes if block_bytes else None
        placed.append(Tensor(name, shape, label, data_start + offset, bytes_))
        expected = None if bytes_ is None else offset + _pad(bytes_, alignment)
    return tuple(placed)


class _ImplausibleError(Exception):
    """The header contains a value that no GGUF has."""


class _EndError(Exception):
    """The data ends before the header does."""


class _Cursor:
    """Reads little-endian values in sequence; raises ``_EndError`` at the end of the data.

    Every count and length is compared with the bytes that are left before it is used, so time and
    memory are bounded by the size of the file and by the limits above.
    """

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self.data = data
        self.size = len(data)
        self.at = 0
        self._kept_bytes = 0
        self._strings = 0

    def scalar(self, layout: struct.Struct) -> int | float:
        """Read one number."""
        if layout.size > self.size - self.at:
            raise _EndError("a number is cut off")
        value: int | float = layout.unpack_from(self.data, self.at)[0]
        self.at += layout.size
        return value

    def u32(self) -> int:
        """Read an unsigned 32-bit integer."""
        return int(self.scalar(_U32))

    def plausible(self, what: str, most: int) -> int:
        """Read a 64-bit count of ``what``; refuse one above ``most``."""
        number = int(self.scalar(_U64))
        if number > most:
            raise _ImplausibleError(f"it claims {number} {what}")
        return number

    def count(self, what: str, most: int, least_bytes: int) -> int:
        """Read a 64-bit count of ``what``, each of at least ``least_bytes``."""
        number = self.plausible(what, most)
        self.check_room(what, number, least_bytes)
        return number

    def check_room(self, what: str, number: int, least_bytes: int) -> None:
        """Check that ``number`` of ``what`` fit into the data that is left."""
        if number * least_bytes > self.size - self.at:
            raise _EndError(f"it claims {number} {what}")

    def string(self) -> str:
        """Read a string."""
        length = self.count("bytes in one string", _MOST_STRING, 1)
        self._keep(length)
        raw = self.data[self.at : self.at + length]
        self.at += length
        return bytes(raw).decode("utf-8", "replace")

    def value(self, kind: int) -> Scalar | Array:
        """Read a metadata value of a type."""
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self.array()
        if kind not in SCALARS:
            raise _ImplausibleError(f"it has a metadata value of unknown type {kind}")
        number = self.scalar(SCALARS[kind])
        return bool(number) if kind == BOOL else number

    def array(self) -> Array:
        """Read a metadata array; strings and long arrays are skipped, and only counted."""
        kind = self.u32()
        count = self.plausible("elements in one array", _MOST_ELEMENTS)
        if kind == STRING:
            self._skip_strings(count)
            return Array(count, None)
        if kind not in SCALARS:
            raise _ImplausibleError(f"it has an array of unknown type {kind}")
        layout = SCALARS[kind]
        self.check_room("elements in one array", count, layout.size)
        if count <= _KEPT_ELEMENTS:
            self._keep(count * _BYTES_PER_VALUE)
            numbers = [self.scalar(layout) for _ in range(count)]
            return Array(count, tuple(map(bool, numbers) if kind == BOOL else numbers))
        self.at += count * layout.size
        return Array(count, None)

    def tensor(self) -> _Row:
        """Read one row of the tensor table."""
        name = self.string()
        dimensions = self.u32()
        if dimensions > 4:
            raise _ImplausibleError(f"tensor {name[:80]!r} has {dimensions} dimensions")
        shape = tuple(int(self.scalar(_U64)) for _ in range(dimensions))
        kind = self.u32()
        return name, shape, kind, int(self.scalar(_U64))

    def _keep(self, bytes_: int) -> None:
        self._kept_bytes += bytes_
        if self._kept_bytes > _MOST_KEPT_BYTES:
            raise _ImplausibleError(f"its metadata has more than {_MOST_KEPT_BYTES} bytes")

    def _skip_strings(self, count: int) -> None:
        self.check_room("strings in one array", count, _LEAST_STRING_BYTES)
        self._strings += count
        if self._strings > _MOST_STRINGS:
            raise _ImplausibleError(f"it claims {self._strings} strings in arrays")
        # The only hot loop: a vocabulary and its merges are some 300,000 strings.
        at, data, unpack, last = self.at, self.data, _U64.unpack_from, self.size - 8
        for _ in range(count):
            if at > last:
                raise _EndError(f"it claims {count} strings in one array")
            at += 8 + unpack(data, at)[0]
        if at > self.size:
            raise _EndError("a string in an array is cut off")
        self.at = at


def _pad(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _describe_start(start: bytes, size: int) -> str:
    if size == 0:
        return "is empty"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the model itself"
    if start[:1] in (b"<", b"{"):
        return "is not a GGUF file: it is text, perhaps an error page saved under that name"
    return f"is not a GGUF file: it starts with {start[:4]!r}"


def _refuse(path: Path, why: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"{path.name} {why}",
        f"delete {path} and download the model again with `etui models pull`",
    )
