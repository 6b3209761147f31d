"""Vectors and scores of texts, computed in a context of their own beside that of the answers."""

from __future__ import annotations

import base64
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from etui.chat import TextsToEmbed
from etui.engine.context import DECODED, Context, Pooling
from etui.engine.model import Model
from etui.engine.special_tokens import SpecialTokens
from etui.errors import ContextOverflow, EngineFailed, InvalidRequest
from etui.events import Embedded, Event, Finished, Prefilled, Prefilling
from etui.units import bytes_text

_POOLING: tuple[Pooling, ...] = ("none", "mean", "cls", "last", "rank")
"""Names of the numbers of ``pooling_type`` in a header, as llama.cpp counts them."""

_MOST_TEXTS = 32
"""Texts in a batch: more of them are hardly faster, and each batch is a chance to cancel."""

_PACKED_TOKENS, _PACKED_LOGITS = 512, 1 << 24
"""Most tokens, and most logits, of a batch of several texts. llama.cpp clears room for the logits
of all tokens though none is read: 64 MB here, and more for a text that is longer."""

_STEP_TOKENS = 64
_LOOK_SECONDS = 0.1
_PART = re.compile(r"\{(query|document)\}")

T = TypeVar("T")
Run = Callable[[Callable[[], T], int], T]
"""Runs a computation of some tokens in the compute thread, and books its time."""


class Embedder:
    """Embeds the texts of requests with a model that is in memory, or ranks them.

    Its context is made at the first use, and again for a text that is longer than all before: an
    encoder needs the whole text in one batch. A file that names no pooling is a chat model; then
    the states of all tokens are averaged here, so that its batches may be as short as for answers.
    Each text has batches of its own: a few states of such a model are so large that the rounding
    in a shared batch moves the mean of a short text (by a cosine of 0.999 to 0.998 on a CPU).
    """

    def __init__(
        self, model: Model, special: SpecialTokens, context_tokens: int, answers: Context
    ) -> None:
        self._model = model
        self._special = special
        self._most_tokens = context_tokens
        self._answers = answers
        self._context: Context | None = None
        self._lock = threading.Lock()  # held from the first to the last part of a batch
        arch = model.metadata("general.architecture")
        stated = model.metadata(f"{arch}.pooling_type") or "0"
        number = int(stated) if stated.isdecimal() else 0
        self.pooling: Pooling = _POOLING[number] if number < len(_POOLING) else "none"
        self.is_chat_model = self.pooling == "none"  # the file names no pooling
        self._is_causal = model.metadata(f"{arch}.attention.causal") != "false"
        self._in_parts = self._is_causal and self.pooling in ("none", "last")

    @property
    def why_no_answers(self) -> str:
        """Why the model cannot answer; empty if it can."""
        if self.pooling == "rank":
            return "ranks texts, and cannot answer"
        return "" if self._is_causal else "embeds texts, and cannot answer"

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        api = self._model.library.api
        count = api.llama_model_n_cls_out if self.pooling == "rank" else api.llama_model_n_embd_out
        return int(count(self._model.handle))

    def tokenize(self, asked: TextsToEmbed) -> list[list[int]]:
        """Tokenize the texts, and the query before them if it needs a vector too.

        Raises:
            ContextOverflow: One is longer than the context, and may not be cut.
            InvalidRequest: One is empty, or has ids that the vocabulary has not; or the model gives
                no vectors.
        """
        if self.pooling == "rank":
            if asked.query is None:
                what = "this model ranks texts for a query, and embeds none"
                raise InvalidRequest(what, "send it to /v1/rerank, with a query")
            inputs = [self._pair(asked.query, str(text)) for text in asked.texts]
        else:
            texts = asked.texts if asked.query is None else (asked.query, *asked.texts)
            inputs = [self._read(text) for text in texts]
        return [self._fit(tokens, asked) for tokens in inputs]

    def _read(self, text: str | Sequence[int]) -> list[int]:
        if isinstance(text, str):
            return self._model.tokenize(text, special=False, ends=True)
        if not all(0 <= token < self._model.vocabulary for token in text):
            what = f"the vocabulary of this model has {self._model.vocabulary} tokens"
            raise InvalidRequest(what, "send ids below that, or a text", "input")
        return list(text)

    def _pair(self, query: str, document: str) -> list[int]:
        """Join a query and a document as the model was trained to read them."""
        template = self._model.metadata("tokenizer.chat_template.rerank")
        if template is not None:
            texts = {"query": query, "document": document}
            text = _PART.sub(lambda part: self._special.conceal(texts[part[1]]), template)
            return self._special.tokenize(
                text, lambda piece, parsed: self._model.tokenize(piece, special=parsed)
            )
        before, between, after = self._model.pair_tokens()
        first, second = (self._model.tokenize(text, special=False) for text in (query, document))
        return [*before, *first, *between, *second, *after]

    def _fit(self, tokens: list[int], asked: TextsToEmbed) -> list[int]:
        most = self._most_tokens
        if not tokens:
            raise InvalidRequest("a text without tokens has no vector", "send no empty text")
        if len(tokens) <= most:
            return tokens
        if not asked.truncate:
            raise ContextOverflow(len(tokens), most, 0)
        ends = tokens[-1:] if self._model.is_control(tokens[-1]) else []
        return [*tokens[: most - len(ends)], *ends]

    def prepare(self, longest: int) -> None:
        """Make a context for texts of so many tokens; call it in the compute thread.

        Raises:
            EngineFailed: There is not enough memory.
        """
        import psutil

        if self._context is not None:
            if longest <= self._context.options.context_tokens:
                return
            self.free()
        packed = min(_PACKED_TOKENS, _PACKED_LOGITS // self._model.vocabulary)
        room = min(max(packed, -(-longest // _STEP_TOKENS) * _STEP_TOKENS), self._most_tokens)
        usual = self._answers.options
        options = replace(
            usual,
            context_tokens=room,
            batch_tokens=min(room, usual.batch_tokens) if self._in_parts else room,
            sequences=1 if self._model.recurrent or self.is_chat_model else _MOST_TEXTS,
            flash_attention="auto",
            pooling=self.pooling,
        )
        need = 4 * self._model.vocabulary * options.batch_tokens
        free = psutil.virtual_memory().available
        if need > free:
            raise EngineFailed(
                f"vectors of {longest} tokens need {bytes_text(need)} of memory, and "
                f"{bytes_text(free)} are free",
                "send shorter texts, or lower `context` of the model in models.yaml",
            )
        library, threads = self._model.library, self._answers.threads
        self._context = Context(library, self._model, options, threads, drafts=True)
        if self._in_parts and not self._context.has_memory:  # an encoder, whatever its file says
            self._in_parts = False
            self.free()
            self.prepare(longest)

    def _fill(self, inputs: Sequence[list[int]], start: int) -> Sequence[list[int]]:
        """Return the texts of the next batch; one that is longer is alone."""
        assert self._context is not None
        room, most = self._context.batch.capacity, self._context.options.sequences
        end, tokens = start + 1, len(inputs[start])
        while end < min(len(inputs), start + most) and tokens + len(inputs[end]) <= room:
            tokens += len(inputs[end])
            end += 1
        return inputs[start:end]

    def _cut(self, texts: Sequence[list[int]]) -> Iterator[tuple[int, Sequence[list[int]]]]:
        """Yield a batch, or the parts of a text that is longer, each with its position."""
        assert self._context is not None
        room = self._context.batch.capacity
        if len(texts) > 1 or len(texts[0]) <= room:
            yield 0, texts
            return
        for at in range(0, len(texts[0]), room):
            yield at, [texts[0][at : at + room]]

    def _join(
        self, parts: Sequence[Sequence[NDArray[np.float32]]]
    ) -> Sequence[NDArray[np.float32]]:
        """Return the vectors of a batch, of length 1, or its scores."""
        found = parts[-1]
        if len(parts) > 1 and self.pooling != "last":
            found = [np.sum([vector for [vector] in parts], axis=0)]
        if self.pooling == "rank":
            return found
        return [vector / max(float(np.linalg.norm(vector)), 1e-30) for vector in found]

    def _decode(self, texts: Sequence[list[int]], position: int) -> list[NDArray[np.float32]]:
        """Compute one batch; return what llama.cpp pools, or the sums of the states of tokens.

        Call it in the compute thread.
        """
        context = self._context
        assert context is not None
        if position == 0:  # of texts before, and of one that was not finished
            for sequence in range(context.options.sequences):
                context.remove(sequence, 0)
        batch = context.batch
        batch.clear()
        for sequence, tokens in enumerate(texts):
            batch.add(sequence, tokens, position, with_logits=True)
        batch.want_logits(batch.size)
        code = context.decode()
        if code != DECODED:
            raise EngineFailed(
                f"llama.cpp failed to embed a batch (code {code})",
                "if memory ran out, send shorter texts, or lower `context` of the model in "
                "models.yaml; see llama.log in ETUI_HOME/logs",
            )
        if self.pooling != "none":
            return [context.pooled(sequence, self.width) for sequence in range(len(texts))]
        ends = np.cumsum([len(tokens) for tokens in texts])[:-1]
        rows = context.token_vectors(self.width)
        return [part.sum(axis=0) for part in np.split(rows, ends)]

    def _enter(self, cancelled: Callable[[], bool]) -> bool:
        """Wait until no other request uses the context; return False if this one was cancelled."""
        while not cancelled():
            if self._lock.acquire(timeout=_LOOK_SECONDS):
                return True
        return False

    def free(self) -> None:
        """Free the context, if there is one; the model stays. Call it in the compute thread."""
        context, self._context = self._context, None
        if context is not None:
            context.free()

    def embed(
        self, asked: TextsToEmbed, cancelled: Callable[[], bool], run: Run[object]
    ) -> Iterator[Event]:
        """Yield the vectors of some texts, and what else an answer yields.

        Between two batches, and two parts of a long text, the answers of others go on.

        Raises:
            ContextOverflow, InvalidRequest: As :meth:`tokenize`.
            EngineFailed: llama.cpp failed, or there is not enough memory.
        """
        start_ns = time.monotonic_ns()
        inputs = self.tokenize(asked)
        total, longest = sum(map(len, inputs)), max(map(len, inputs))
        pooling = "mean" if self.is_chat_model else self.pooling
        at = due = done = 0
        batch_tokens = None
        while at < len(inputs) and self._enter(cancelled):
            parts: list[Sequence[NDArray[np.float32]]] = []
            try:
                run(partial(self.prepare, longest), 0)
                texts = self._fill(inputs, at)
                at, due = at + len(texts), due + sum(map(len, texts))
                for position, part in self._cut(texts):
                    if cancelled():
                        break
                    count = sum(map(len, part))
                    found = run(partial(self._decode, part, position), count)
                    parts.append(cast("list[NDArray[np.float32]]", found))
                    done += count
                    yield Prefilling(time.monotonic_ns(), done, total)
                batch_tokens = self._context.batch.capacity if self._context is not None else None
            finally:
                self._lock.release()
            if done < due:
                break
            written = tuple(
                base64.b64encode(vector.astype("<f4").tobytes()).decode()
                for vector in self._join(parts)
            )
            counts = tuple(map(len, texts))
            yield Embedded(time.monotonic_ns(), written, counts, pooling, self.is_chat_model)
        end_ns = time.monotonic_ns()
        yield Prefilled(start_ns, end_ns, total, 0, done, batch_tokens=batch_tokens)
        stopped = done < total
        made = "score" if self.pooling == "rank" else f"vector of {self.width} numbers"
        yield Finished(
            start_ns=start_ns,
            prefill_end_ns=end_ns,
            thinking_end_ns=end_ns,
            end_ns=end_ns,
            first_token_ns=None,
            status="stopped" if stopped else "complete",
            why="stopped while reading the texts" if stopped else "",
            answer="" if stopped else f"{len(inputs)} x a {made}",
            thinking="",
            prompt_tokens=total,
            cached_tokens=0,
            computed_tokens=done,
            thinking_tokens=0,
            output_tokens=0,
        )
