"""Draw the next token: with llama.cpp's sampler chain, or the argmax when greedy."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etui.arm import Sampling

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Script:
    """The tokens that a sequence draws, whatever its logits say; after the last, it draws its own.

    The position decides which token is next, so a rolled back or forked sequence draws the same.
    """

    start: int  # Length of the sequence before the first token
    tokens: tuple[int, ...]  # The tokens; one that ends a text does not end the sequence

    def find(self, length: int) -> int | None:
        """Return the token that a sequence of this length draws; None where it draws its own."""
        at = length - self.start
        return self.tokens[at] if 0 <= at < len(self.tokens) else None


class Sampler:
    """Token sampler of one sequence.

    The chain is biases, penalties, top-k, top-p, min-p, temperature, draw, in the order of
    llama.cpp's own tools. At temperature 0 without biases and penalties there is no chain: the
    argmax of the logits is the same token, and cheaper than llama.cpp's copy of the whole
    vocabulary.

    The penalties look at the last tokens of the sequence, prompt included. They are compared with
    the sequence before each draw, so they are right after a fork, a rollback, and tokens that the
    model did not draw.

    Args:
        api: The bindings of llama.cpp.
        context_tokens: The window of the penalties for ``repeat_last_n: -1``.
    """

    def __init__(
        self, api: Any, sampling: Sampling, vocabulary: int = 0, context_tokens: int = 0
    ) -> None:
        self._api = api
        window = context_tokens if sampling.repeat_last_n < 0 else sampling.repeat_last_n
        repeat, presence = sampling.repeat_penalty, sampling.presence_penalty
        frequency = sampling.frequency_penalty
        self._window = window if (repeat, presence, frequency) != (1, 0, 0) else 0
        self._recent: list[int] = []  # what the penalties have seen, at most a window of it
        self._penalties: Any = None
        self._chain: Any = None
        links = []
        if sampling.logit_bias:
            biases = (api.llama_logit_bias * len(sampling.logit_bias))(*sampling.logit_bias)
            links.append(api.llama_sampler_init_logit_bias(vocabulary, len(biases), biases))
        if self._window:
            self._penalties = api.llama_sampler_init_penalties(
                vocabulary, self._window, repeat, frequency, presence
            )
            links.append(self._penalties)
        if sampling.temperature > 0:
            links += _build_draw(api, sampling)
        elif links:
            links.append(api.llama_sampler_init_greedy())
        if links:
            self._chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        for link in links:
            api.llama_sampler_chain_add(self._chain, link)

    @property
    def greedy(self) -> bool:
        """Whether the token with the highest logit is always taken."""
        return self._chain is None

    def draw(self, context: Any, row: int, tokens: Sequence[int] = ()) -> int:
        """Draw from output ``row`` of the last batch; not for a greedy sampler.

        Args:
            tokens: The tokens of the sequence so far, which the penalties look at.
        """
        self._show(tokens)
        token = int(self._api.llama_sampler_sample(self._chain, context, row))
        self._note(token)  # llama.cpp has accepted the token already
        return token

    def draw_among(
        self, ids: NDArray[np.intp], logits: NDArray[np.float32], tokens: Sequence[int]
    ) -> int | None:
        """Draw one of these tokens instead, None if the chain leaves none.

        Args:
            logits: Logits of the whole vocabulary.
            tokens: The tokens of the sequence so far.
        """
        import numpy as np

        self._show(tokens)
        data = np.zeros(len(ids), [("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        data["id"], data["logit"] = ids, logits[ids]
        pointer = data.ctypes.data_as(self._api.llama_token_data_p)
        candidates = self._api.llama_token_data_array(pointer, len(data), -1, False)
        self._api.llama_sampler_apply(self._chain, ctypes.byref(candidates))
        if candidates.selected < 0:
            return None
        token = int(candidates.data[candidates.selected].id)
        self._api.llama_sampler_accept(self._chain, token)
        self._note(token)
        return token

    def _show(self, tokens: Sequence[int]) -> None:
        """Let the penalties see the last tokens, unless they have seen just these.

        Only the penalties start again: a reset of the whole chain would restart its random numbers.
        """
        last = list(tokens[-self._window :]) if self._window else []
        if last == self._recent:
            return
        self._api.llama_sampler_reset(self._penalties)
        for token in (each for each in last if each >= 0):  # no part of a picture
            self._api.llama_sampler_accept(self._penalties, token)
        self._recent = last

    def _note(self, token: int) -> None:
        if self._window:
            self._recent = [*self._recent, token][-self._window :]

    def free(self) -> None:
        """Free the chain, which owns the penalties."""
        if self._chain is not None:
            self._api.llama_sampler_free(self._chain)
            self._chain = self._penalties = None


def _build_draw(api: Any, sampling: Sampling) -> list[Any]:
    links = []
    if sampling.top_k > 0:
        links.append(api.llama_sampler_init_top_k(sampling.top_k))
    if sampling.top_p < 1:
        links.append(api.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p > 0:
        links.append(api.llama_sampler_init_min_p(sampling.min_p, 1))
    links.append(api.llama_sampler_init_temp(sampling.temperature))
    # llama.cpp takes 2^32 - 1 as "random seed", hence 31 bits.
    links.append(api.llama_sampler_init_dist(sampling.seed & 0x7FFFFFFF))
    return links
