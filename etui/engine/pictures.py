"""Pictures in prompts: read by llama.cpp's ``mtmd``, encoded by a projector, decoded as tokens.

In the tokens of a sequence each token of a picture is a number below ``NO_TOKEN``, made of its
owner, the hash of the picture and the place in it. So prompts share a prefix only if their pictures
are equal. A picture is encoded again for each owner: the joules would show that another sent it.
"""

from __future__ import annotations

import base64
import ctypes
import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from etui.chat import Picture
from etui.engine.session import NO_TOKEN
from etui.errors import EngineFailed, InvalidRequest, ModelUnavailable

if TYPE_CHECKING:
    from etui.engine.context import Context
    from etui.engine.library import Library
    from etui.engine.model import Model

_KEPT = 8
"""Pictures that are kept although no request uses them: the next turn of a chat has them again."""

_BITS = 30  # saved sequences have 32 bits a token
_TEXT, _IMAGE = 0, 1  # enum mtmd_input_chunk_type


def is_of_picture(token: int) -> bool:
    """Return whether a token of a sequence is a part of a picture."""
    return token < NO_TOKEN


def has_pictures(tokens: Sequence[int]) -> bool:
    """Return whether a prompt has a picture."""
    return bool(tokens) and is_of_picture(min(tokens))


@dataclass(slots=True, eq=False)
class _Part:
    """The tokens of a picture that are encoded and decoded together; large ones have several."""

    chunk: Any  # ``mtmd_input_chunk``
    tokens: list[int]
    vectors: NDArray[np.float32] | None = None  # None until it is encoded


@dataclass(slots=True, eq=False)
class _Known:
    """A picture that was tokenized."""

    tokens: list[int]  # With those of the texts around its parts
    parts: list[_Part]
    users: int = 0


class PictureReader:
    """Turns pictures into tokens and vectors, with the projector of a model.

    Everything but ``tokenize`` runs in the compute thread, or between two batches.

    Raises:
        ModelUnavailable: llama.cpp rejected the projector, or cannot use it with this model.
    """

    def __init__(self, library: Library, model: Model, path: Path, context: Context) -> None:
        try:
            from llama_cpp import mtmd_cpp
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            raise ModelUnavailable(
                f"this build of llama.cpp cannot read pictures: {error}",
                "choose another build with `etui engine`, or remove `mmproj` from models.yaml",
            ) from error
        self._mtmd: Any = mtmd_cpp
        self._context = context
        self._known: dict[tuple[str, str], _Known] = {}
        """By the owner and the hash of the picture, the oldest use first."""
        self._parts: dict[int, _Part] = {}  # by the first token
        self._width = int(library.api.llama_model_n_embd_inp(model.handle))
        library.log_also(mtmd_cpp.mtmd_log_set, mtmd_cpp.mtmd_helper_log_set)
        params = mtmd_cpp.mtmd_context_params_default()
        params.use_gpu = model.offloaded
        params.n_threads = context.options.threads
        params.print_timings = params.warmup = False
        library.forget_errors()
        self._handle: Any = mtmd_cpp.mtmd_init_from_file(str(path).encode(), model.handle, params)
        library.flush()
        if not self._handle:
            raise ModelUnavailable(
                f"llama.cpp could not load the projector {path.name}: {library.errors()}",
                f"name the projector that was made for {model.path.name} as `mmproj`",
            )
        if mtmd_cpp.mtmd_decode_use_mrope(self._handle):
            self.free()
            raise ModelUnavailable(
                f"{path.name} gives pictures positions in two dimensions (M-RoPE), which etui "
                "cannot do yet",
                "remove its `mmproj` from models.yaml to use the model for texts",
            )

    def tokenize(self, picture: Picture, owner: str) -> list[int]:
        """Return the tokens; safe beside a running batch, in one thread at a time.

        InvalidRequest if llama.cpp cannot read the picture.
        """
        key = owner, picture.sha256
        known = self._known.pop(key, None)
        if known is None:
            known = self._read(picture, owner)
            self._parts.update((part.tokens[0], part) for part in known.parts)
        self._known[key] = known
        return known.tokens

    def hold(self, pictures: Iterable[Picture], owner: str) -> None:
        """Keep pictures until they are released: a sequence may have to compute them again."""
        held = list(pictures)
        for picture in held:  # all of them, or none
            self.tokenize(picture, owner)
        for picture in held:
            self._known[owner, picture.sha256].users += 1

    def release(self, pictures: Iterable[Picture], owner: str) -> None:
        """Let pictures go that were held."""
        for picture in pictures:
            self._known[owner, picture.sha256].users -= 1
        unused = [key for key, known in self._known.items() if known.users <= 0]
        for key in unused[: max(0, len(unused) - _KEPT)]:
            self._forget(self._known.pop(key))

    def find_raw(self, tokens: Sequence[int]) -> Iterator[int]:
        """Yield the first tokens of the parts among these tokens that are not encoded yet."""
        for token in tokens:
            part = self._parts.get(token) if is_of_picture(token) else None
            if part is not None and part.vectors is None:
                yield token

    def count(self, token: int) -> int:
        """Count the tokens of the part that begins with a token."""
        return len(self._find(token).tokens)

    def encode(self, token: int) -> int:
        """Encode the part that begins with a token; return its length. EngineFailed if it fails."""
        part = self._find(token)
        code = self._mtmd.mtmd_encode_chunk(self._handle, part.chunk)
        found = self._mtmd.mtmd_get_output_embd(self._handle) if code == 0 else None
        if not found:
            raise EngineFailed(
                "llama.cpp could not encode a picture",
                "send a smaller one, or lower `context` or `gpu_layers` of the model",
            )
        shape = len(part.tokens), self._width
        part.vectors = np.ctypeslib.as_array(found, (shape[0] * shape[1],)).reshape(shape).copy()
        return shape[0]

    def decode(self, token: int, slot: int, position: int) -> int:
        """Decode the part that begins with a token; return the code of ``llama_decode``."""
        part = self._find(token)
        if part.vectors is None:
            self.encode(token)
        assert part.vectors is not None
        pointer = part.vectors.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        end = ctypes.c_int32()
        mtmd, context = self._mtmd, self._context

        def decode() -> int:
            return int(
                mtmd.mtmd_helper_decode_image_chunk(
                    *(self._handle, context.handle, part.chunk, pointer, position, slot),
                    *(context.options.batch_tokens, ctypes.byref(end)),
                    *(mtmd.mtmd_helper_post_decode_callback(), None),
                )
            )

        return context.decode_by(decode, len(part.tokens))

    def free(self) -> None:
        """Free the projector and all pictures."""
        for known in self._known.values():
            self._forget(known)
        self._known.clear()
        self._mtmd.mtmd_free(self._handle)

    def _find(self, token: int) -> _Part:
        part = self._parts.get(token)
        if part is None:
            raise EngineFailed("a picture of this prompt is not in memory any more", "ask again")
        return part

    def _forget(self, known: _Known) -> None:
        for part in known.parts:
            del self._parts[part.tokens[0]]
            self._mtmd.mtmd_input_chunk_free(part.chunk)

    def _read(self, picture: Picture, owner: str) -> _Known:
        mtmd, data = self._mtmd, base64.b64decode(picture.data)
        buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
        bitmap = mtmd.mtmd_helper_bitmap_init_from_buf(self._handle, buffer, len(data), False)
        if not bitmap:
            raise _refuse("llama.cpp cannot read the picture", "save it again as PNG or JPEG")
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            marker = mtmd.mtmd_default_marker()
            text = mtmd.mtmd_input_text(marker, len(marker), False, True)
            bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
            code = mtmd.mtmd_tokenize(self._handle, chunks, ctypes.byref(text), bitmaps, 1)
            if code != 0:
                raise _refuse("llama.cpp cannot prepare the picture", "send another size of it")
            return self._collect(f"{owner} {picture.sha256}", chunks)
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            mtmd.mtmd_bitmap_free(bitmap)

    def _collect(self, name: str, chunks: Any) -> _Known:
        """Collect the tokens of the chunks that a picture became."""
        mtmd, known = self._mtmd, _Known([], [])
        for index in range(mtmd.mtmd_input_chunks_size(chunks)):
            chunk = mtmd.mtmd_input_chunks_get(chunks, index)
            kind, count = mtmd.mtmd_input_chunk_get_type(chunk), ctypes.c_size_t()
            if kind == _TEXT:
                ids = mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
                # mtmd writes -1 for a token that the vocabulary of this model does not have.
                known.tokens += [token for token in ids[: count.value] if token >= 0]
                continue
            size = int(mtmd.mtmd_input_chunk_get_n_tokens(chunk))
            most = self._context.options.batch_tokens
            if mtmd.mtmd_decode_use_non_causal(self._handle, chunk) and size > most:
                what = f"the picture takes {size} tokens at once, and a batch has {most}"
                raise _refuse(what, f"set `batch_tokens: {size}` of the model in models.yaml")
            tokens = list(_number(name, len(known.tokens), size, self._parts))
            known.parts.append(_Part(mtmd.mtmd_input_chunk_copy(chunk), tokens))
            known.tokens += tokens
        return known


def _number(name: str, begin: int, count: int, taken: Collection[int]) -> Iterator[int]:
    """Yield numbers for the tokens of a part of a picture, which begins at a place in it."""
    for at in range(begin, begin + count):
        digest, token = f"{name} {at}", 0
        while not token or token in taken:  # by chance another's, once in a billion
            digest = hashlib.sha256(digest.encode()).hexdigest()
            token = NO_TOKEN - 1 - int(digest[:16], 16) % 2**_BITS
        yield token


def _refuse(what: str, fix: str) -> InvalidRequest:
    return InvalidRequest(what, fix, "messages")
