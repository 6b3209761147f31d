"""Read and check the header of a GGUF file in pure Python, before llama.cpp loads it.

Layout (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): magic ``GGUF``, version u32,
tensor count u64, metadata count u64, the metadata, the tensor table, padding to the alignment, the
tensor data. Only versions 2 and 3 (little endian) are read, as in llama.cpp.

A model that is split over several files is one model here: its header is that of the first file,
with the tensors and the size of all.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from etui.errors import ModelUnavailable
from etui.models.spec import ModelSampling

Scalar = int | float | bool | str
EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
"""Regular expression of the tensors that hold the experts of a block, after ``blk.N``: that of
llama.cpp's ``--n-cpu-moe``. Routers and shared experts, which every token reads, are none."""
_EXPERTS_OF_BLOCK = re.compile(rf"blk\.(\d+){EXPERTS}")
_MOST_LAYERS = 1 << 12  # llama.cpp is compiled for 512
_USUAL_TOKENS = 1 << 17  # of a vocabulary
_LOOKED_UP = "per_layer_token_embd.weight"
"""Table of Gemma 3n and 4 of which a token reads one row: up to half of a file. That of the input
embeddings counts as read, because it is the output matrix of most models, too."""
_LOOKED_UP_TOKENS = 1 << 18  # Their vocabulary

_NUMBER_RANGES = {
    "block_count": (1, _MOST_LAYERS),
    "context_length": (1, 1 << 31),
    "embedding_length": (1, 1 << 20),
    "attention.head_count": (0, 1 << 16),
    "attention.head_count_kv": (0, 1 << 16),
    "attention.key_length": (1, 1 << 20),
    "attention.value_length": (1, 1 << 20),
}
"""Key below the architecture -> least and largest number that a model can have.

Layers without attention (recurrent ones of hybrid models) have no heads.
"""

SAMPLING_KEYS = {
    "temperature": ("temp", 0, 5),
    "top_p": ("top_p", 1e-6, 1),
    "top_k": ("top_k", 0, 1_000_000),
    "min_p": ("min_p", 0, 1),
    "repeat_penalty": ("penalty_repeat", 1e-6, 10),
    "repeat_last_n": ("penalty_last_n", -1, 10_000_000),
    "presence_penalty": ("", -2, 2),
}
"""Name in models.yaml -> key below ``general.sampling`` (gguf-py's constants.py) and range.

The key is empty where a file cannot say it.
"""
_COUNTS = ("top_k", "repeat_last_n")
_NO_TOKENIZERS = ("none", "no_vocab")
"""Values of ``tokenizer.ggml.model`` of files without a vocabulary; llama.cpp aborts on a text."""
_NO_MODELS = {"adapter": "a LoRA adapter", "imatrix": "an importance matrix"}
"""Values of ``general.type`` of files that belong to a model -> what they are."""


_PART = re.compile(r"-(?P<number>\d{5})-of-(?P<count>\d{5})$")
_MOST_PARTS = 999
_ENDING = ".gguf"


def list_parts(name: str) -> tuple[str, ...]:
    """List the names of all files of a split model by one of them; of another file, its name."""
    match = _PART.search(name.removesuffix(_ENDING))
    if match is None or not 1 < int(match["count"]) <= _MOST_PARTS or not name.endswith(_ENDING):
        return (name,)
    head, count = name[: match.start()], int(match["count"])
    return tuple(name_part(head, number, count) for number in range(1, count + 1))


def name_part(head: str, number: int, count: int) -> str:
    """Name a file of a split model as llama.cpp expects it; of one that is not split, the file."""
    return f"{head}-{number:05}-of-{count:05}{_ENDING}" if count > 1 else f"{head}{_ENDING}"


def list_part_paths(path: Path) -> tuple[Path, ...]:
    """List the files of a model by the path of the first one, whether they exist or not."""
    return tuple(path.with_name(name) for name in list_parts(path.name))


def drop_part(stem: str) -> str:
    """Return the name of a file, without its ending, without the number of its part."""
    return _PART.sub("", stem)


@dataclass(frozen=True, slots=True)
class Array:
    """A metadata array; ``values`` is None for arrays of strings and for long ones."""

    count: int
    values: tuple[Scalar, ...] | None


@dataclass(frozen=True, slots=True)
class Tensor:
    """One row of the tensor table."""

    name: str
    shape: tuple[int, ...]  # Elements along each dimension, fastest first
    type: str  # Name of the tensor type; `type N` for an unknown type
    offset: int  # Position of its first byte in the file
    size_bytes: int | None  # Size of its data in bytes; None for an unknown type


@dataclass(frozen=True, slots=True)
class Gguf:
    """The header of a GGUF file, or the start of it: see :func:`parse_start`."""

    path: Path
    version: int
    size_bytes: int
    metadata: Mapping[str, Scalar | Array]
    tensors: tuple[Tensor, ...]
    stated_parameters: int = 0
    """Number of weights that is stated of a file whose tensors are not listed; 0: none is."""

    @property
    def architecture(self) -> str:
        """``general.architecture``, such as ``llama`` or ``qwen2``; ``unknown`` if missing."""
        return self._get_text("general.architecture") or "unknown"

    @property
    def licence(self) -> str | None:
        """``general.license``, as its maker gives it."""
        return self._get_text("general.license") or None

    @property
    def name(self) -> str | None:
        """``general.name``, the model's name as given by its maker."""
        return self._get_text("general.name")

    @property
    def parameters(self) -> int:
        """Number of weights, summed over the tensors; without their list the one that is stated."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors) or self.stated_parameters

    @property
    def experts(self) -> int:
        """Number of experts of a block of a mixture; 0 for a dense model."""
        return max(0, self.number("expert_count") or 0)

    @property
    def experts_used(self) -> int:
        """Number of experts of a block that one token reads; 0 for a dense model."""
        used = self.number("expert_used_count") or 0
        return used if 0 < used < self.experts else self.experts

    @property
    def expert_bytes(self) -> tuple[int, ...]:
        """Bytes of the experts of each block, all of them; empty for a dense model."""
        sizes = [0] * min(self.layers or 0, _MOST_LAYERS)
        for block, tensor in self._list_experts():
            if block < len(sizes):
                sizes[block] += tensor.size_bytes or 0
        return tuple(sizes) if any(sizes) else ()

    @property
    def largest_expert_bytes(self) -> int:
        """Bytes of the largest tensor of experts; 0 for a dense model."""
        return max((tensor.size_bytes or 0 for _, tensor in self._list_experts()), default=0)

    @property
    def expert_width(self) -> int:
        """Width of the hidden layer of an expert; 0 for a dense model, or if it is unknown."""
        if not self.experts:
            return 0
        own = self.number("expert_feed_forward_length")
        return max(0, own or self.number("feed_forward_length") or 0)

    @property
    def active_parameters(self) -> int:
        """Number of weights that one token uses: not those of idle experts, or of other rows."""
        if not self.tensors:
            return int(self.parameters * self._active_share)
        experts = sum(math.prod(tensor.shape) for _, tensor in self._list_experts())
        rows = sum(math.prod(t.shape) for t in self.tensors if t.name == _LOOKED_UP)
        return self.parameters - rows - self._count_idle(experts)

    @property
    def active_bytes(self) -> int:
        """Size of the file without idle experts and rows that are looked up: what decode reads."""
        if not self.tensors:
            return int(self.size_bytes * self._active_share)
        experts = sum(tensor.size_bytes or 0 for _, tensor in self._list_experts())
        rows = sum(t.size_bytes or 0 for t in self.tensors if t.name == _LOOKED_UP)
        return self.size_bytes - rows - self._count_idle(experts)

    @property
    def _active_share(self) -> float:
        """Share of the weights that one token uses, by the widths of the layers."""
        width, layers = self.embedding_length or 0, self.layers or 0
        blocks = max(0, layers - (self.number("leading_dense_block_count") or 0))
        experts = 3 * width * self.expert_width * self.experts * blocks
        if not experts:
            row = layers * (self.number("embedding_length_per_layer_input") or 0)
            return 1 - min(0.9, row * _LOOKED_UP_TOKENS / (self.parameters or math.inf))
        # The weights are not stated: attention of four square matrices and the embeddings.
        others = max(0, self.parameters - experts) or width * (4 * layers * width + _USUAL_TOKENS)
        return (experts - self._count_idle(experts) + others) / (experts + others)

    def _count_idle(self, whole: int) -> int:
        return whole - whole * self.experts_used // self.experts if self.experts else 0

    def _list_experts(self) -> Iterator[tuple[int, Tensor]]:
        for tensor in self.tensors if self.experts else ():
            if match := _EXPERTS_OF_BLOCK.match(tensor.name):
                yield int(match[1]), tensor

    @property
    def quantisation(self) -> str:
        """Name of the file's quantisation, or of the tensor type with the most bytes."""
        stated = self.metadata.get("general.file_type")
        if isinstance(stated, int) and stated in FILE_TYPES:
            return FILE_TYPES[stated]
        totals: dict[str, int] = {}
        for tensor in self.tensors:
            totals[tensor.type] = totals.get(tensor.type, 0) + (tensor.size_bytes or 0)
        return max(totals, key=lambda kind: totals[kind]) if totals else "unknown"

    @property
    def context_tokens(self) -> int | None:
        """Context length the model was trained with, in tokens."""
        return self.number("context_length")

    @property
    def layers(self) -> int | None:
        """Number of transformer blocks."""
        return self.number("block_count")

    @property
    def nextn_layers(self) -> int:
        """Number of layers for multi-token prediction; 0 for most models."""
        return self.number("nextn_predict_layers") or 0

    @property
    def embedding_length(self) -> int | None:
        """Width of the hidden state."""
        return self.number("embedding_length")

    @property
    def vocabulary(self) -> int | None:
        """Number of tokens in the vocabulary."""
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        return tokens.count if isinstance(tokens, Array) else self.number("vocab_size")

    @property
    def tokenizer(self) -> str | None:
        """Kind of tokenizer, as llama.cpp names it (``gpt2``, ``llama``)."""
        return self._get_text("tokenizer.ggml.model") or None

    @property
    def chat_template(self) -> str | None:
        """Jinja chat template; None for most base models."""
        return self._get_text("tokenizer.chat_template") or None

    @property
    def sampling(self) -> ModelSampling | None:
        """How the model asks to be sampled (``general.sampling.*``, as llama.cpp reads it).

        Samplers that etui does not have and values outside their range are ignored; None without
        any.
        """
        values: dict[str, Any] = {
            name: value
            for name, (key, _, _) in SAMPLING_KEYS.items()
            if is_sampling_value(name, value := self.metadata.get(f"general.sampling.{key}"))
        }
        for name, value in values.items():
            # A float32 has seven digits: 0.6 is stored as 0.6000000238.
            values[name] = int(value) if name in _COUNTS else float(f"{value:.7g}")
        return ModelSampling(**values) if values else None

    def find_fault(self) -> str:
        """Find a value with which llama.cpp aborts or no model works: ``is ...``, ``has ...``."""
        if self.architecture == "clip":
            return "reads pictures or sound for another model (mmproj): it cannot answer by itself"
        if (kind := self._get_text("general.type")) in _NO_MODELS:
            return f"is {_NO_MODELS[kind]}, which cannot answer by itself"
        tokenizer = self._get_text("tokenizer.ggml.model")
        if tokenizer in _NO_TOKENIZERS:
            return f"has no vocabulary (tokenizer.ggml.model is {tokenizer!r}), so it cannot answer"
        prefix = f"{self.architecture}."
        for key, (least, most) in _NUMBER_RANGES.items():
            for number in self.per_layer(key):
                if not least <= number <= most:
                    return f"is damaged: {prefix[:80] + key!r} is {number}, not {least} to {most}"
        for name, value in self.metadata.items():
            if name.startswith(prefix) and not _are_usable(name, value):
                return f"is damaged: {name[:80]!r} is no usable number"
        return ""

    def _get_text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def number(self, key: str) -> int | None:
        """Return a whole number below the architecture; None if it is missing."""
        value = self.metadata.get(f"{self.architecture}.{key}")
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def per_layer(self, key: str) -> tuple[int, ...]:
        """Return the whole numbers of an array below the architecture, or of a single number."""
        value = self.metadata.get(f"{self.architecture}.{key}")
        if isinstance(value, Array):
            numbers = value.values or ()
        else:
            numbers = () if value is None else (value,)
        return tuple(number for number in numbers if isinstance(number, int))


def is_sampling_value(name: str, value: object) -> bool:
    """Return whether a value is one that a key of ``sampling`` in models.yaml can have."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    _, least, most = SAMPLING_KEYS[name]
    is_count = name in _COUNTS
    return least <= value <= most and not (is_count and value != int(value))


def _are_usable(key: str, value: Scalar | Array) -> bool:
    """Check that no number is NaN and no epsilon negative or infinite."""
    numbers = (value.values or ()) if isinstance(value, Array) else (value,)
    floats = [number for number in numbers if isinstance(number, float)]
    if key.endswith("epsilon"):
        return all(0 <= number < math.inf for number in floats)
    return not any(map(math.isnan, floats))


STRING, ARRAY, BOOL = 8, 9, 7
SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    BOOL: struct.Struct("<B"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
"""Metadata value type -> its layout; strings and arrays are not included."""

TENSOR_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4),
    27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip
"""Tensor type -> (name, elements per block, bytes per block)."""

FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS",
    23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M",
    30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE",
}  # fmt: skip
"""``general.file_type`` -> quantisation of the whole file."""

KV_TYPES: dict[str, tuple[int, float]] = {
    "f32": (0, 4.0),
    "f16": (1, 2.0),
    "bf16": (30, 2.0),
    "q8_0": (8, 34 / 32),
    "q5_1": (7, 24 / 32),
    "q5_0": (6, 22 / 32),
    "iq4_nl": (20, 18 / 32),
    "q4_1": (3, 20 / 32),
    "q4_0": (2, 18 / 32),
}
"""Name of a KV cache type -> (tensor type, bytes per element)."""
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
    """Read a header and check that llama.cpp can load the file without aborting.

    ModelUnavailable as in :func:`check_gguf`, or if it describes no model that can run.
    """
    gguf = check_gguf(path)
    if gguf.metadata.get("general.type") == "adapter":
        raise ModelUnavailable(
            f"{path.name} is a LoRA adapter, which cannot answer by itself",
            f"add it to its model with: etui models pull MODEL --adapter {path}",
        )
    if fault := gguf.find_fault():
        raise _refuse(path, fault)
    return gguf


def check_gguf(path: Path) -> Gguf:
    """Read a GGUF header and check that the file contains all the data of its tensors.

    ModelUnavailable if it is missing, not a GGUF, of an unsupported version, damaged or truncated.
    """
    gguf = _read_header(path)
    count = gguf.metadata.get("split.count")
    return gguf if not isinstance(count, int) or count <= 1 else _join_parts(gguf, count)


def _read_header(path: Path) -> Gguf:
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


def _join_parts(first: Gguf, count: int) -> Gguf:
    path, paths = first.path, list_part_paths(first.path)
    if len(paths) != count:
        named = f"and has to be named NAME-00001-of-{count:05}.gguf"
        raise _refuse(path, f"is one of {count} files of a split model, {named}")
    if path != paths[0]:
        raise _refuse(path, f"is not the first file of its model: that is {paths[0].name}")
    size, tensors = first.size_bytes, list(first.tensors)
    for number, part in enumerate(paths[1:], 1):
        if not part.is_file():
            raise _refuse(path, f"lacks file {number + 1} of {count} of its model: {part.name}")
        other = _read_header(part)
        if other.metadata.get("split.no") != number or other.metadata.get("split.count") != count:
            raise _refuse(part, f"is not file {number + 1} of {count} of its model")
        size += other.size_bytes
        tensors += other.tensors
    if (expected := first.metadata.get("split.tensors.count")) not in (None, len(tensors)):
        raise _refuse(path, f"has {len(tensors)} tensors in all its files, not {expected}")
    return replace(first, size_bytes=size, tensors=tuple(tensors))


def parse(path: Path, data: bytes | mmap.mmap, size: int) -> Gguf:
    """Parse the header in ``data``, a file of ``size`` bytes; raises as :func:`check_gguf`."""
    try:
        return _parse(path, _Cursor(data), size)
    except _ImplausibleError as error:
        raise _refuse(path, f"is damaged: {error}") from None
    except _EndError as error:
        raise _refuse(
            path, f"is truncated: it ends at byte {size}, in its header ({error})"
        ) from None


def parse_start(path: Path, data: bytes, size: int) -> tuple[Gguf, int] | None:
    """Parse the metadata of a file of ``size`` bytes as far as ``data``, its start, has them.

    Writers put the facts of the network before the vocabulary, which is most of a header. Returns
    the header without its tensors, and the bytes of its facts; None if they go on behind ``data``.
    """
    if not data.startswith(_MAGIC):
        raise _refuse(path, _describe_start(data, size))
    cursor = _Cursor(data)
    metadata: dict[str, Scalar | Array] = {}
    try:
        version = _read_version(path, cursor)
        cursor.plausible("tensors", _MOST_TENSORS)
        for _ in range(cursor.plausible("metadata keys", _MOST_KEYS)):
            key = cursor.string()
            if key.startswith("tokenizer.") and _is_described(metadata):
                break
            metadata[key] = cursor.value(cursor.u32())
    except _ImplausibleError as error:
        raise _refuse(path, f"is damaged: {error}") from None
    except _EndError:
        return None
    return Gguf(path, version, size, metadata, ()), cursor.at


def _is_described(metadata: Mapping[str, Scalar | Array]) -> bool:
    return f"{metadata.get('general.architecture')}.block_count" in metadata


def _read_version(path: Path, cursor: _Cursor) -> int:
    cursor.at = len(_MAGIC)
    version = cursor.u32()
    if version not in (2, 3):
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        kind = "is big endian" if swapped in (2, 3) else f"has GGUF version {version}"
        raise _refuse(path, f"{kind}; versions 2 and 3 (little endian) are supported")
    return version


def _parse(path: Path, cursor: _Cursor, size: int) -> Gguf:
    version = _read_version(path, cursor)
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
        if layout.size > self.size - self.at:
            raise _EndError("a number is cut off")
        value: int | float = layout.unpack_from(self.data, self.at)[0]
        self.at += layout.size
        return value

    def u32(self) -> int:
        return int(self.scalar(_U32))

    def plausible(self, what: str, most: int) -> int:
        number = int(self.scalar(_U64))
        if number > most:
            raise _ImplausibleError(f"it claims {number} {what}")
        return number

    def count(self, what: str, most: int, least_bytes: int) -> int:
        number = self.plausible(what, most)
        self.check_room(what, number, least_bytes)
        return number

    def check_room(self, what: str, number: int, least_bytes: int) -> None:
        if number * least_bytes > self.size - self.at:
            raise _EndError(f"it claims {number} {what}")

    def string(self) -> str:
        length = self.count("bytes in one string", _MOST_STRING, 1)
        self._keep(length)
        raw = self.data[self.at : self.at + length]
        self.at += length
        return bytes(raw).decode("utf-8", "replace")

    def value(self, kind: int) -> Scalar | Array:
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self.array()
        if kind not in SCALARS:
            raise _ImplausibleError(f"it has a metadata value of unknown type {kind}")
        number = self.scalar(SCALARS[kind])
        return bool(number) if kind == BOOL else number

    def array(self) -> Array:
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
