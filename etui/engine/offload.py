"""Estimate a model's memory and how many of its layers fit on the GPUs: pure arithmetic.

llama.cpp counts the output matrix as one more layer than the model's blocks; so does this module.
The first layer on a GPU is the output matrix, then follow the blocks from the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etui.models.gguf import Gguf

if TYPE_CHECKING:
    from etui.engine.library import Device
    from etui.models.spec import ModelSpec

_SPARE_SHARE = 0.05
"""Share left free on every GPU, for the changing needs of the driver and the desktop."""

_COMPUTE_BYTES_FLOOR = 128_000_000


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes a model needs."""

    layers: int  # Blocks of the model
    layer_bytes: int  # Mean weights of one block
    output_bytes: int  # Weights outside the blocks, without the input embeddings
    weight_bytes: int
    kv_bytes: int  # KV cache of the whole context
    compute_bytes: int

    @property
    def total_bytes(self) -> int:
        """Sum of weights, KV cache and compute buffers."""
        return self.weight_bytes + self.kv_bytes + self.compute_bytes


def needs(gguf: Gguf, context_tokens: int, kv_type: str, batch_tokens: int = 512) -> Needs:
    """Estimate the memory of a model from its header.

    The compute buffers hold activations of a whole batch: about 20 rows of the hidden state in 4
    bytes. The attention scores over the context, which flash attention avoids, are not included.
    """
    layers = gguf.layers or 1
    blocks = sum(t.size_bytes or 0 for t in gguf.tensors if t.name.startswith("blk."))
    weights = sum(t.size_bytes or 0 for t in gguf.tensors)
    embeddings = sum(t.size_bytes or 0 for t in gguf.tensors if t.name == "token_embd.weight")
    outputs = weights - blocks - embeddings
    if not any(t.name == "output.weight" for t in gguf.tensors):
        outputs += embeddings  # tied embeddings: llama.cpp keeps a second copy as output matrix
    width = gguf.embedding_length or 4096
    compute = max(_COMPUTE_BYTES_FLOOR, 4 * batch_tokens * 20 * width)
    kv = (gguf.kv_bytes_per_token(kv_type) or 0) * context_tokens
    return Needs(layers, blocks // layers, outputs, weights, kv, compute)


def ram_bytes(need: Needs, gpu_layers: int) -> int:
    """Compute the bytes that stay in RAM with ``gpu_layers`` layers on the GPU.

    The input embeddings and the compute buffers always do.
    """
    if gpu_layers <= 0:
        return need.total_bytes
    blocks = min(gpu_layers - 1, need.layers)
    moved = need.output_bytes + blocks * (need.layer_bytes + need.kv_bytes // need.layers)
    return max(need.compute_bytes, need.total_bytes - moved)


def usable_bytes(
    free_bytes: Sequence[int], split: str, main_gpu: int, shares: Sequence[float]
) -> int:
    """Compute how much of the free memory of all GPUs together a model can use.

    With shares, the GPU with the least free memory for its share limits the total.

    Args:
        split: ``none`` (all on ``main_gpu``), ``layer`` or ``row``.
        main_gpu: Index of the GPU used with ``none``.
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
    """Compute how many layers (0 to blocks + 1) and their KV cache fit into ``free_bytes``."""
    room = free_bytes * (1 - _SPARE_SHARE) - need.compute_bytes - need.output_bytes
    per_layer = need.layer_bytes + need.kv_bytes // need.layers
    if room <= 0:
        return 0
    return 1 + min(need.layers, int(room // max(1, per_layer)))


def choose_layers(gpus: Sequence[Device], spec: ModelSpec, need: Needs) -> int:
    """Choose how many layers to put on the GPUs, from their currently free memory."""
    if not gpus:
        return 0
    if spec.gpu_layers == "all":
        return need.layers + 1
    if spec.gpu_layers == "auto":
        free = [gpu.free_bytes for gpu in gpus]
        usable = usable_bytes(free, spec.split, spec.main_gpu, spec.tensor_split)
        return layers_that_fit(need, usable)
    return min(int(spec.gpu_layers), need.layers + 1)


def fewer_layers(layers: int) -> int:
    """Reduce the layers to try after a load failed: by a quarter each time, finally to none."""
    return layers * 3 // 4 if layers > 3 else 0
