"""Estimate a model's memory and what of it to put on the GPUs: pure arithmetic.

llama.cpp counts the output matrix as one more layer than the model's blocks; so does this module.
The first layer on a GPU is the output matrix, then follow the blocks from the last one. The experts
of the first blocks can stay in RAM, as with ``--n-cpu-moe``: most of a mixture's bytes are experts
of which a token reads a few, so that RAM costs less time there than anywhere else.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from etui.engine.checkpoints import MOST_PER_SEQUENCE, checkpoint_budget
from etui.models.cache_size import CacheSize, cache_size
from etui.models.gguf import Gguf

if TYPE_CHECKING:
    from etui.engine.library import Device
    from etui.models.spec import ModelSpec

_SPARE_SHARE = 0.05
"""Share left free on every GPU, for the changing needs of the driver and the desktop."""

_COMPUTE_BYTES_FLOOR = 128_000_000

SEQUENCES = 16
WINDOWED_SEQUENCES = 8
"""Sequences of a context, and of one with sliding windows: each has cells for a whole window."""

RECURRENT_SEQUENCES = 4
STATES_BYTES = 512_000_000
"""Least sequences of a recurrent model, and bytes of states for which it has more, up to the
others' number."""

_CLEARLY_FASTER = 1.1
"""Ratio of measured speeds from which another placement is preferred to the rule's."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Which part of a model is on the GPUs; the rest is in RAM."""

    gpu_layers: int = 0  # Layers on a GPU, the output matrix first, then the last blocks
    cpu_moe: int = 0
    """Blocks, from the model's first one, whose experts are in RAM even if the block is not."""


@dataclass(frozen=True, slots=True)
class PlacementSpeed:
    """How fast a model decoded on this machine with a placement."""

    placement: Placement
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes a model needs."""

    layers: int  # Blocks of the model
    layer_bytes: int  # Mean weights of one block
    output_bytes: int  # Weights outside the blocks, without the input embeddings
    weight_bytes: int
    kv_bytes: int  # KV cache of the whole context, and recurrent states
    compute_bytes: int
    expert_bytes: tuple[int, ...] = ()  # Weights of the experts of each block; empty without any
    copied_bytes: int = 0
    """Largest tensor of experts: of those in RAM, llama.cpp copies one at a time to a GPU to
    compute long batches there."""
    checkpoint_bytes: int = 0  # Most bytes of checkpoints, which stay in RAM

    @property
    def total_bytes(self) -> int:
        """Sum of weights, KV cache with checkpoints, and compute buffers."""
        return self.weight_bytes + self.kv_bytes + self.compute_bytes + self.checkpoint_bytes

    @property
    def whole(self) -> Placement:
        """The placement with everything on the GPUs."""
        return Placement(self.layers + 1)

    @property
    def block_bytes(self) -> int:
        """Mean bytes of a block with its KV cache, without its experts."""
        experts = -(-sum(self.expert_bytes) // self.layers)
        return max(0, self.layer_bytes - experts) + self.kv_bytes // self.layers

    def experts_on_gpu(self, placement: Placement) -> int:
        """Sum the bytes of the experts on the GPUs."""
        off = max(placement.cpu_moe, self.layers + 1 - max(1, placement.gpu_layers), 0)
        return sum(self.expert_bytes[off:])


def choose_sequences(size: CacheSize | None, parallel: int) -> int:
    """Choose how many sequences a context has: the votes of one batch, a probe, and prefix donors.

    Windows and recurrent states take memory for each of them, used or not.
    """
    count = SEQUENCES
    if size is not None and size.window_bytes:
        count = WINDOWED_SEQUENCES
    if size is not None and size.state_bytes:
        # A state for each of many answers would be too much for some models.
        return min(count, max(RECURRENT_SEQUENCES, STATES_BYTES // size.state_bytes))
    return max(count, 2 * parallel)


def needs(
    gguf: Gguf,
    context_tokens: int,
    kv_type: str,
    batch_tokens: int = 512,
    *,
    parallel: int = 1,
    adapter_bytes: int = 0,
) -> Needs:
    """Estimate the memory of a model from its header.

    The compute buffers hold activations of a whole batch: about 20 rows of the hidden state in 4
    bytes, and three of what the experts used by a token compute. The attention scores over the
    context, which flash attention avoids, are not included.
    """
    layers = gguf.layers or 1
    blocks = sum(t.size_bytes or 0 for t in gguf.tensors if t.name.startswith("blk."))
    blocks += adapter_bytes  # each of its factors is where the tensor is that it changes
    weights = sum(t.size_bytes or 0 for t in gguf.tensors) or gguf.size_bytes  # without their list
    weights += adapter_bytes
    embeddings = sum(t.size_bytes or 0 for t in gguf.tensors if t.name == "token_embd.weight")
    outputs = weights - blocks - embeddings
    if not any(t.name == "output.weight" for t in gguf.tensors):
        outputs += embeddings  # tied embeddings: llama.cpp keeps a second copy as output matrix
    width = gguf.embedding_length or 4096
    row = 20 * width + 3 * gguf.experts_used * gguf.expert_width
    compute = max(_COMPUTE_BYTES_FLOOR, 4 * batch_tokens * row)
    size, kv, saved = cache_size(gguf, kv_type), 0, 0
    if size is not None:
        kv = size.total_bytes(context_tokens, choose_sequences(size, parallel), batch_tokens)
        saved = min(checkpoint_budget(weights), size.part_bytes * MOST_PER_SEQUENCE)
    experts, copied = gguf.expert_bytes, gguf.largest_expert_bytes
    return Needs(layers, blocks // layers, outputs, weights, kv, compute, experts, copied, saved)


def gpu_bytes(need: Needs, placement: Placement) -> int:
    """Compute the bytes on the GPUs, compute buffers included."""
    if placement.gpu_layers <= 0:
        return 0
    off_gpu = sum(need.expert_bytes) - need.experts_on_gpu(placement)
    copied = need.copied_bytes if off_gpu else 0
    return need.compute_bytes + copied + _moved_bytes(need, placement)


def ram_bytes(need: Needs, placement: Placement) -> int:
    """Compute the bytes that stay in RAM.

    The input embeddings and the compute buffers always do.
    """
    return max(need.compute_bytes, need.total_bytes - _moved_bytes(need, placement))


def _moved_bytes(need: Needs, placement: Placement) -> int:
    """Compute the bytes of weights and KV cache that are on the GPUs and not in RAM."""
    if placement.gpu_layers <= 0:
        return 0
    blocks = min(placement.gpu_layers - 1, need.layers)
    experts = need.experts_on_gpu(placement)
    return need.output_bytes + blocks * need.block_bytes + experts


def usable_bytes(
    free_bytes: Sequence[int], split: str, main_gpu: int, shares: Sequence[float]
) -> int:
    """Compute how much of the free memory of all GPUs together a model can use.

    With shares, in any unit, the GPU with the least free memory for its share limits the total, and
    those without one get nothing.
    """
    if split == "none":
        return free_bytes[main_gpu] if main_gpu < len(free_bytes) else 0
    if not shares:
        return sum(free_bytes)
    whole = sum(shares)
    pairs = zip(free_bytes, shares, strict=False)
    return int(min((free * whole / share for free, share in pairs if share > 0), default=0))


def fits_on_gpus(need: Needs, placement: Placement, free_bytes: int) -> bool:
    """Return whether a placement fits into the free memory of the GPUs, with some to spare."""
    return gpu_bytes(need, placement) <= free_bytes * (1 - _SPARE_SHARE)


def fit_placement(
    need: Needs, free_bytes: int, layers: int | None = None, cpu_moe: int | None = None
) -> Placement:
    """Choose what to put on the GPUs.

    The experts of the first blocks leave them first, then whole layers: attention and KV cache are
    read in full for every token, the experts are not.

    Args:
        layers: Layers that are on a GPU whether they fit or not; None chooses them.
        cpu_moe: Blocks whose experts are in RAM; None chooses them.
    """

    def fits(layers: int, experts: int) -> bool:
        return fits_on_gpus(need, Placement(layers, experts), free_bytes)

    top = need.layers + 1 if layers is None else min(layers, need.layers + 1)
    most = need.layers if need.expert_bytes else 0  # blocks with experts
    least = 0 if cpu_moe is None else min(cpu_moe, most)
    if cpu_moe is None and not fits(top, 0):
        # From the first block on, each step frees memory.
        least = bisect_left(range(most), True, key=lambda experts: fits(top, experts))
    if layers is not None or fits(top, least):
        return Placement(top, least if top else 0)
    fitting = bisect_left(range(1, top + 1), True, key=lambda layers: not fits(layers, least))
    return Placement(fitting, least) if fitting else Placement()


def choose_placement(
    gpus: Sequence[Device], spec: ModelSpec, need: Needs, speeds: Sequence[PlacementSpeed] = ()
) -> Placement:
    """Choose what to put on the GPUs, by the settings of a model and the memory that is free now.

    Args:
        speeds: What was measured on this machine; it counts only where both are ``auto``.
    """
    if not gpus:
        return Placement()
    free = [gpu.free_bytes for gpu in gpus]
    usable = usable_bytes(free, spec.split, spec.main_gpu, spec.tensor_split)
    layers = _read_count(spec.gpu_layers, need.layers + 1)
    rule = fit_placement(need, usable, layers, _read_count(spec.cpu_moe, need.layers))
    if not need.expert_bytes or layers is not None or spec.cpu_moe != "auto":
        return rule
    return _prefer_measured(
        rule, speeds, [s for s in speeds if fits_on_gpus(need, s.placement, usable)]
    )


def _read_count(asked: str | int, every: int) -> int | None:
    """Read a number of a ModelSpec; None for ``auto``."""
    return None if asked == "auto" else every if asked == "all" else min(int(asked), every)


def _prefer_measured(
    rule: Placement, speeds: Sequence[PlacementSpeed], fitting: Sequence[PlacementSpeed]
) -> Placement:
    """Replace the placement of the rule by one that fits and was measured to be clearly faster.

    Free memory changes from load to load, and with it the rule's number of experts: one that was
    not measured is taken to be as fast as the nearest measured one with more on the GPUs.
    """
    above = [
        speed
        for speed in speeds
        if speed.placement.gpu_layers >= rule.gpu_layers > 0
        and speed.placement.cpu_moe <= rule.cpu_moe
    ]
    if not above or not fitting:
        return rule
    near = max(above, key=lambda speed: (speed.placement.cpu_moe, -speed.placement.gpu_layers))
    best = max(fitting, key=lambda speed: speed.tokens_per_second)
    is_clear = best.tokens_per_second > _CLEARLY_FASTER * near.tokens_per_second
    return best.placement if is_clear else rule


def step_down(placement: Placement, spec: ModelSpec, need: Needs) -> Placement | None:
    """Return what to try after a load failed: fewer experts on the GPUs, then fewer layers.

    Each step leaves three quarters there, finally none; None where no setting is ``auto``.
    """
    layers, blocks = placement.gpu_layers, min(placement.gpu_layers - 1, need.layers)
    experts = min(blocks, need.layers - placement.cpu_moe) if need.expert_bytes else 0
    if spec.cpu_moe == "auto" and experts > 0:
        return Placement(layers, need.layers - _three_quarters(experts))
    if spec.gpu_layers != "auto" or layers <= 0:
        return None
    fewer = _three_quarters(layers)
    return Placement(fewer, placement.cpu_moe) if fewer else Placement()


def _three_quarters(count: int) -> int:
    return count * 3 // 4 if count > 3 else 0


def split_layers(need: Needs, placement: Placement, free_bytes: Sequence[int]) -> tuple[float, ...]:
    """Divide the layers on several GPUs so that each gets bytes in proportion to its free memory.

    llama.cpp divides them by their number, as if each were as large as any other; with experts in
    RAM the first ones are far smaller. Empty leaves it to llama.cpp.
    """
    blocks = min(placement.gpu_layers - 1, need.layers)
    if placement.cpu_moe <= need.layers - blocks or len(free_bytes) < 2 or not sum(free_bytes):
        return ()
    kept = [need.block_bytes] * placement.cpu_moe
    kept += [need.block_bytes + each for each in need.expert_bytes[placement.cpu_moe :]]
    sizes = [*kept[need.layers - blocks :], need.output_bytes]
    ends = list(accumulate(free_bytes))
    layers, before, whole = [0] * len(free_bytes), 0.0, sum(sizes)
    for size in sizes:
        middle = (before + size / 2) / max(1, whole) * ends[-1]
        layers[min(bisect_right(ends, middle), len(ends) - 1)] += 1
        before += size
    return tuple(map(float, layers))
