"""What a model needs in memory, and how many of its layers fit on the GPUs: pure arithmetic.

llama.cpp counts the output matrix as one layer more than the model's blocks; so does this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etui.models.gguf import Gguf

_SPARE_SHARE = 0.05
"""Left free on every GPU: the driver and the desktop take memory as they go."""

_COMPUTE_BYTES_FLOOR = 128_000_000


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes a model takes.

    Attributes:
        layers: Blocks of the model.
        layer_bytes: Weights of one block, the mean.
        output_bytes: Output matrix and what else is no block, without the input embeddings.
        weight_bytes: All weights.
        kv_bytes: KV cache of the whole context.
        compute_bytes: Buffers of the computation.
    """

    layers: int
    layer_bytes: int
    output_bytes: int
    weight_bytes: int
    kv_bytes: int
    compute_bytes: int

    @property
    def total_bytes(self) -> int:
        """Everything together."""
        return self.weight_bytes + self.kv_bytes + self.compute_bytes


def needs(gguf: Gguf, context_tokens: int, kv_type: str, batch_tokens: int = 512) -> Needs:
    """Estimate from the header what a model takes with a context of this size.

    The compute buffer holds some activations of a whole batch: about 20 rows of the hidden state
    and the attention scores of all heads over the context, in 4 bytes; the scores vanish with
    flash attention, so this is an upper bound.
    """
    layers = gguf.layers or 1
    blocks = sum(t.size_bytes or 0 for t in gguf.tensors if t.name.startswith("blk."))
    weights = sum(t.size_bytes or 0 for t in gguf.tensors)
    embeddings = sum(t.size_bytes or 0 for t in gguf.tensors if t.name == "token_embd.weight")
    outputs = weights - blocks - embeddings
    if not any(t.name == "output.weight" for t in gguf.tensors):
        outputs += embeddings  # tied: the embeddings are the output matrix, held twice
    width = gguf.embedding_length or 4096
    compute = max(_COMPUTE_BYTES_FLOOR, 4 * batch_tokens * 20 * width)
    kv = (gguf.kv_bytes_per_token(kv_type) or 0) * context_tokens
    return Needs(layers, blocks // layers, outputs, weights, kv, compute)


def ram_bytes(need: Needs, gpu_layers: int) -> int:
    """Bytes of the model that stay in RAM with so many layers on the GPU.

    The input embeddings and the buffers do in any case.
    """
    blocks = min(gpu_layers, need.layers)
    moved = blocks * (need.layer_bytes + need.kv_bytes // need.layers)
    if gpu_layers > need.layers:
        moved += need.output_bytes
    return max(need.compute_bytes, need.total_bytes - moved)


def usable_bytes(
    free_bytes: Sequence[int], split: str, main_gpu: int, shares: Sequence[float]
) -> int:
    """What a model may take of the GPUs' free memory, all of them together.

    With shares the fullest GPU bounds the whole: it takes its share of whatever there is.

    Args:
        free_bytes: Free bytes of each GPU.
        split: ``none`` (all on ``main_gpu``), ``layer`` or ``row``.
        shares: Share of each GPU, in any unit; GPUs without one get nothing. Empty: by free memory.
    """
    if split == "none":
        return free_bytes[main_gpu] if main_gpu < len(free_bytes) else 0
    if not shares:
        return sum(free_bytes)
    whole = sum(shares)
    pairs = zip(free_bytes, shares, strict=False)
    return int(min((free * whole / share for free, share in pairs if share > 0), default=0))


def layers_that_fit(need: Needs, free_bytes: int) -> int:
    """Layers (0 to blocks + 1) that fit into ``free_bytes`` of GPU memory with their KV cache."""
    room = free_bytes * (1 - _SPARE_SHARE) - need.compute_bytes
    per_layer = need.layer_bytes + need.kv_bytes // need.layers
    if room <= 0:
        return 0
    if room >= need.layers * per_layer + need.output_bytes:
        return need.layers + 1
    return min(need.layers, int(room // max(1, per_layer)))


def fewer_layers(layers: int) -> int:
    """What to try after a load with ``layers`` on the GPU failed: three quarters, at last none."""
    return layers * 3 // 4 if layers > 3 else 0
