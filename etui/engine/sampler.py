"""Draw the next token: with llama.cpp's sampler chain, or the argmax when greedy."""

from __future__ import annotations

from typing import Any

from etui.arm import Sampling


class Sampler:
    """Token sampler of one sequence.

    The chain is top-k, top-p, min-p, temperature, draw, in the order of llama.cpp's own tools. At
    temperature 0 there is no chain: the argmax of the logits is the same token, and cheaper than
    llama.cpp's copy of the whole vocabulary.
    """

    def __init__(self, api: Any, sampling: Sampling) -> None:
        self._api = api
        self._chain: Any = None if sampling.temperature <= 0 else _build_chain(api, sampling)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self._chain is None

    def draw(self, context: Any, row: int) -> int:
        """Draw from output ``row`` of the last batch; not for a greedy sampler."""
        return int(self._api.llama_sampler_sample(self._chain, context, row))

    def free(self) -> None:
        """Free the chain."""
        if self._chain is not None:
            self._api.llama_sampler_free(self._chain)
            self._chain = None


def _build_chain(api: Any, sampling: Sampling) -> Any:
    chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
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
    for link in links:
        api.llama_sampler_chain_add(chain, link)
    return chain
