"""One model in memory: load, free, tokenize, token texts and metadata."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

from etui.engine.library import Library
from etui.engine.session import FillTokens
from etui.engine.special_tokens import SpecialToken
from etui.errors import ModelUnavailable
from etui.models.gguf import EXPERTS
from etui.models.spec import Adapter

ALL_LAYERS = -1
"""Value of ``gpu_layers`` that puts every layer on the GPU."""


class _BufferOverride(ctypes.Structure):
    """``llama_model_tensor_buft_override``, which the bindings do not declare."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


@dataclass(frozen=True, slots=True)
class Split:
    """How a model is split over several GPUs and RAM."""

    mode: str = "layer"
    """``layer`` (whole layers to each), ``row`` (each matrix in rows) or ``none``."""
    main_gpu: int = 0  # Index of the GPU that holds the model with `none`
    shares: tuple[float, ...] = ()  # Share of the model on each GPU; empty splits by free memory
    cpu_moe: int = 0  # Blocks, from the first one, whose experts stay in RAM


class Model:
    """Weights and vocabulary of one GGUF file.

    Args:
        library: It must outlive the model.
        gpu_layers: Layers on the GPU; ignored by a build without offload. With 0 no GPU is used at
            all: by default llama.cpp would still compute long batches on it, and fail where its
            memory is full.
        shown: Texts (think tags) that stay visible even if they are control tokens.
        vocabulary_only: Load no weights; enough to tokenize.
        heads: Load the layers for multi-token prediction too, if this build can.

    Raises:
        ModelUnavailable: llama.cpp rejected the file, or memory ran out.
    """

    def __init__(
        self,
        library: Library,
        path: Path,
        gpu_layers: int = 0,
        split: Split | None = None,
        shown: Sequence[str] = (),
        *,
        vocabulary_only: bool = False,
        heads: bool = False,
    ) -> None:
        api = library.api
        self.library = library
        self._api: Any = api
        self.path = path
        self.offloaded = gpu_layers != 0 and bool(library.gpus())
        params = api.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.vocab_only = vocabulary_only
        heads = heads and hasattr(params, "load_mtp") and hasattr(api, "llama_model_n_layer_nextn")
        if heads:
            params.load_mtp = True
        split = split or Split()
        shares = _apply_split(api, params, split)
        overrides = _keep_experts_in_ram(api, split.cpu_moe)
        params.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p)
        no_device = (ctypes.c_void_p * 1)(None)  # a list of devices ends with a null pointer
        if gpu_layers == 0:
            params.devices = ctypes.addressof(no_device)
        # The shares, overrides and devices are read during the call only.
        library.forget_errors()
        library.forget_placement()
        handle = api.llama_model_load_from_file(str(path).encode(), params)
        del shares, overrides, no_device
        library.flush()
        if not handle:
            raise ModelUnavailable(
                f"llama.cpp could not load {path.name}: {library.errors()}",
                f"see {library.log_path}; a newer llama-cpp-python may support this model",
            )
        self.handle: Any = handle
        self.vocab: Any = api.llama_model_get_vocab(handle)
        self.vocabulary = int(api.llama_vocab_n_tokens(self.vocab))
        self.size_bytes = int(api.llama_model_size(handle))
        self.width = int(api.llama_model_n_embd(handle))
        self.layers = int(api.llama_model_n_layer(handle))
        self.heads = int(api.llama_model_n_layer_nextn(handle)) if heads else 0
        self.recurrent = bool(
            api.llama_model_is_recurrent(handle) or api.llama_model_is_hybrid(handle)
        )
        self.sliding_window = int(api.llama_model_n_swa(handle))
        bos = int(api.llama_vocab_bos(self.vocab))
        self.bos = bos if bos >= 0 else None
        self.adds_bos = self.bos is not None and bool(api.llama_vocab_get_add_bos(self.vocab))
        eos = int(api.llama_vocab_eos(self.vocab))
        self.bos_text, self.eos_text = self.token_text(bos), self.token_text(eos)  # "" for none
        self.boundary_tokens = bos, eos, self.adds_bos  # -1 for none
        self.vocabulary_type = int(api.llama_vocab_type(self.vocab))
        self.adapters: list[tuple[Any, float]] = []
        """LoRA adapters that contexts made from now on use, and their scales."""
        self._pieces: dict[int, tuple[bytes, bool]] = {}
        self._buffer = ctypes.create_string_buffer(256)
        self._shown = frozenset(
            ids[0] for ids in (self.tokenize(text) for text in shown) if len(ids) == 1
        )

    def add_adapters(self, adapters: Sequence[Adapter]) -> None:
        """Load LoRA adapters, before any context is made: each makes its graphs larger.

        They are freed with the model. ModelUnavailable if llama.cpp rejected one.
        """
        for adapter in adapters:
            self.library.forget_errors()
            handle = self._api.llama_adapter_lora_init(self.handle, str(adapter.path).encode())
            self.library.flush()
            if not handle:
                raise ModelUnavailable(
                    f"llama.cpp could not load the adapter {adapter.path.name}: "
                    f"{self.library.errors()}",
                    f"name an adapter that was made for {self.path.name} in models.yaml",
                )
            self.adapters.append((handle, adapter.scale))

    def tokenize(
        self, text: str, *, bos: bool = False, special: bool = True, ends: bool = False
    ) -> list[int]:
        """Tokenize a text, with the begin token if ``bos`` and the model uses one.

        Args:
            special: Parse ``<|im_start|>`` and similar as control tokens, not as text.
            ends: Add the tokens that the model wants before and behind a whole text.
        """
        raw = text.encode("utf-8", "surrogatepass")
        capacity = len(raw) + 16
        for _ in range(2):
            tokens = (self._api.llama_token * capacity)()
            count = int(
                self._api.llama_tokenize(self.vocab, raw, len(raw), tokens, capacity, ends, special)
            )
            if count >= 0:
                break
            capacity = -count  # what is needed
        found = list(tokens[: max(0, count)])
        return self.with_bos(found) if bos else found

    def count(self, raw: bytes) -> int:
        """Count the tokens of UTF-8 text, without control tokens, and without making a list."""
        if self.vocabulary_type == self._api.LLAMA_VOCAB_TYPE_NONE:
            return 0  # llama.cpp would abort
        return abs(int(self._api.llama_tokenize(self.vocab, raw, len(raw), None, 0, False, False)))

    def with_bos(self, tokens: list[int]) -> list[int]:
        """Prepend the begin token, if the model uses one and the tokens have none."""
        if self.adds_bos and self.bos is not None and tokens[:1] != [self.bos]:
            return [self.bos, *tokens]
        return tokens

    def pair_tokens(self) -> tuple[list[int], list[int], list[int]]:
        """Return the tokens before, between and behind two texts that are read together."""
        api, vocab = self._api, self.vocab
        separator = int(api.llama_vocab_sep(vocab))
        end = int(api.llama_vocab_eos(vocab))
        ends = [separator if end < 0 else end] if api.llama_vocab_get_add_eos(vocab) else []
        between = [*ends, separator] if api.llama_vocab_get_add_sep(vocab) else ends
        return self.with_bos([]), between, ends

    def piece(self, token: int) -> tuple[bytes, bool]:
        """Return a token's bytes (empty for a control token) and whether it ends generation.

        A token below 0 is a part of a picture.
        """
        if token < 0:
            return b"", False
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._compute_piece(token)
        return known

    def pieces(self) -> list[tuple[bytes, bool]]:
        """Return what :meth:`piece` does for every token, without keeping it."""
        return [self._compute_piece(token) for token in range(self.vocabulary)]

    def is_control(self, token: int) -> bool:
        """Return whether a token is one that only templates write, such as ``<|im_start|>``."""
        api = self._api
        if token < 0:
            return False
        return bool(api.llama_vocab_get_attr(self.vocab, token) & api.LLAMA_TOKEN_ATTR_CONTROL)

    def _compute_piece(self, token: int) -> tuple[bytes, bool]:
        shown = token in self._shown
        api, buffer = self._api, self._buffer
        length = int(api.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, shown))
        if length < 0:
            buffer = ctypes.create_string_buffer(-length)
            length = int(api.llama_token_to_piece(self.vocab, token, buffer, -length, 0, shown))
        return buffer.raw[:length], bool(api.llama_vocab_is_eog(self.vocab, token))

    def special_tokens(self) -> list[SpecialToken]:
        """Return the tokens that llama.cpp finds in a text before it splits the rest."""
        api = self._api
        if self.vocabulary_type == api.LLAMA_VOCAB_TYPE_NONE:
            return []  # llama.cpp would abort
        control = api.LLAMA_TOKEN_ATTR_CONTROL | api.LLAMA_TOKEN_ATTR_UNKNOWN
        special = control | api.LLAMA_TOKEN_ATTR_USER_DEFINED
        # With 262,144 tokens this takes some 70 ms; a loop would take half as long again.
        attributes = map(api.llama_vocab_get_attr, repeat(self.vocab), range(self.vocabulary))
        return [
            SpecialToken(
                self.token_text(token),
                control=bool(attribute & control),
                strips_left=bool(attribute & api.LLAMA_TOKEN_ATTR_LSTRIP),
                strips_right=bool(attribute & api.LLAMA_TOKEN_ATTR_RSTRIP),
            )
            for token, attribute in enumerate(attributes)
            if attribute & special
        ]

    def token_text(self, token: int) -> str:
        """Return the text of a control token (``<s>``); empty for -1."""
        if token < 0:
            return ""
        raw: bytes = self._api.llama_vocab_get_text(self.vocab, token) or b""
        return raw.decode("utf-8", "replace")

    def fill_tokens(self) -> FillTokens | None:
        """Return the tokens to fill in the middle of a text; None if the model has none.

        llama.cpp reads them from the header, or finds the usual ones by their texts.
        """
        names = ("pre", "suf", "mid", "rep", "sep")
        found = [int(getattr(self._api, f"llama_vocab_fim_{name}")(self.vocab)) for name in names]
        prefix, suffix, middle, project, file = (each if each >= 0 else None for each in found)
        if prefix is None or suffix is None or middle is None:
            return None
        return FillTokens(prefix, suffix, middle, project, file)

    def metadata(self, key: str) -> str | None:
        """Return a metadata value of the GGUF as text; None if it is missing."""
        size = 1 << 12
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = int(
                self._api.llama_model_meta_val_str(self.handle, key.encode(), buffer, size)
            )
            if length < 0:
                return None
            if length < size:
                return buffer.value.decode("utf-8", "replace")
            size = length + 1

    def free(self) -> None:
        """Free the memory; contexts of the model must be freed before."""
        if self.handle is not None:
            self._api.llama_model_free(self.handle)
            self.handle = None


def _apply_split(api: Any, params: Any, split: Split) -> Any:
    """Set the split and return the array that must live until the model is loaded."""
    params.split_mode = getattr(api, f"LLAMA_SPLIT_MODE_{split.mode.upper()}")
    params.main_gpu = split.main_gpu
    if not split.shares:
        return None
    devices = int(api.llama_max_devices())
    shares = (ctypes.c_float * devices)(*split.shares[:devices])
    params.tensor_split = shares
    return shares


def _keep_experts_in_ram(api: Any, blocks: int) -> Any:
    """Build the overrides for the experts of the first blocks; None without any.

    One pattern for all of them: llama.cpp compiles each again for every tensor.
    """
    if not blocks:
        return None
    cpu = api._lib.ggml_backend_cpu_buffer_type
    cpu.restype = ctypes.c_void_p
    pattern = rf"^blk\.({'|'.join(map(str, range(blocks)))}){EXPERTS}"
    # A list of overrides ends with a null pattern.
    return (_BufferOverride * 2)(_BufferOverride(pattern.encode(), cpu()))
