"""Files beside a model, checked by their headers: LoRA adapters, and projectors for pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from etui.errors import ModelUnavailable
from etui.models.gguf import Gguf, Tensor, check_gguf
from etui.models.spec import ModelSpec

_FACTORS = (".lora_a", ".lora_b")
"""How the names of the two factors of a tensor's changes end (W + scale * B A)."""


def check_adapters(spec: ModelSpec, gguf: Gguf) -> None:
    """Check by their headers that the adapters belong to a model; else ModelUnavailable."""
    for adapter in spec.adapters:
        found = read_adapter(adapter.path, spec.name)
        if fault := _find_fault(found, gguf):
            raise ModelUnavailable(
                f"the adapter {adapter.path.name} {fault}",
                f"name an adapter that was made for {spec.name} in models.yaml",
            )


def size_adapters(spec: ModelSpec) -> int:
    """Return the bytes of the adapters and of the projector that are there."""
    paths = [each.path for each in spec.adapters]
    paths += [] if spec.mmproj is None else [spec.mmproj]
    return sum(path.stat().st_size for path in paths if path.is_file())


def read_adapter(path: Path, model: str) -> Gguf:
    """Read the header of an adapter; ModelUnavailable if it is missing, or no complete GGUF."""
    if not path.is_file():
        raise ModelUnavailable(
            f"the adapter of {model} is missing: {path}",
            f"fix the `adapter` of {model} in models.yaml, or put the file there",
        )
    try:
        return check_gguf(path)
    except ModelUnavailable as error:
        fix = f"put the whole file there again, or fix the `adapter` of {model} in models.yaml"
        raise ModelUnavailable(f"the adapter {error.what}", fix) from error


def _find_fault(adapter: Gguf, base: Gguf) -> str:
    """Find why an adapter cannot change a model, after its name; empty if it can."""
    kind = adapter.metadata.get("adapter.type")
    if adapter.metadata.get("general.type") != "adapter" or kind != "lora":
        return "is no LoRA adapter: its general.type and adapter.type do not say so"
    if adapter.architecture != base.architecture:
        return f"is for a model of the kind {adapter.architecture!r:.80}, not {base.architecture}"
    if "adapter.alora.invocation_tokens" in adapter.metadata:
        return "changes the model only after certain tokens (aLoRA), which etui cannot do"
    alpha = adapter.metadata.get("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, float) or not math.isfinite(alpha):
        return "is damaged: adapter.lora.alpha is no usable number"
    weights = {tensor.name: tensor for tensor in base.tensors}
    pairs: dict[str, dict[str, Tensor]] = {}
    for tensor in adapter.tensors:
        stem, dot, last = tensor.name.rpartition(".")
        if dot + last in _FACTORS:
            pairs.setdefault(stem, {})[last] = tensor
        elif not tensor.name.endswith("_norm.weight"):  # llama.cpp leaves these out
            return f"has a tensor {tensor.name!r:.80}, which is no part of a LoRA adapter"
    if not pairs:
        return "has no tensors"
    for name, pair in pairs.items():
        if fault := _find_pair_fault(name, pair, weights.get(name)):
            return fault
    return ""


def _find_pair_fault(name: str, pair: dict[str, Tensor], weight: Tensor | None) -> str:
    shown = f"{name!r:.80}"
    if len(pair) < 2:
        return f"has only one of the two factors of {shown}"
    if weight is None:
        return f"changes {shown}, which the model does not have: it is of another base model"
    width, rank, *a_more = _shape(pair["lora_a"])
    b_rank, height, *b_more = _shape(pair["lora_b"])
    if name == "token_embd.weight":  # its rows are looked up: the factors are the other way round
        width, height, rank = height, rank, width
    if not rank or rank != b_rank:
        return f"has factors of the ranks {rank} and {b_rank} for {shown}"
    asked, own = (width, height), _shape(weight)
    if asked != own[:2] or not tuple(a_more) == tuple(b_more) == own[2:]:
        sizes = [" x ".join(map(str, each)) for each in (asked, own[:2])]
        return f"changes {shown} as {sizes[0]}, and it is {sizes[1]}: it is of another base model"
    return ""


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return (*tensor.shape, 1, 1, 1, 1)[:4]


_MOST_PARTS = 64


@dataclass(frozen=True, slots=True)
class Projector:
    """What the header of a projector says of the size of pictures."""

    kind: str  # ``clip.projector_type``
    image_size: int  # Pixels of each side of what is encoded at once
    patch_size: int
    merge: int  # Patches of each side that become one token
    longest_edge: int  # Of the copy that is encoded in parts; 0 encodes each picture whole

    def estimate_tokens(self, width: int, height: int) -> int:
        """Estimate the tokens of a picture, with those of the texts around its parts."""
        side = self.image_size // max(1, self.patch_size * self.merge)
        each = max(1, side * side)
        if not self.longest_edge:
            return each
        scale = self.longest_edge / max(width, height, 1)
        parts = [
            max(1, math.ceil(edge * scale / max(1, self.image_size))) for edge in (width, height)
        ]
        count = min(_MOST_PARTS, parts[0] * parts[1])
        return (each + 6) * (count + 1)


def read_projector(path: Path, model: str) -> Projector:
    """Read the header of a projector; ModelUnavailable if it is damaged, or reads no pictures."""
    fix = f"fix the `mmproj` of {model} in models.yaml"
    if not path.is_file():
        raise ModelUnavailable(f"the projector of {model} is missing: {path}", fix)
    try:
        gguf = check_gguf(path)
    except ModelUnavailable as error:
        raise ModelUnavailable(f"the projector {error.what}", fix) from error
    found = gguf.metadata
    if gguf.architecture != "clip" or not found.get("clip.has_vision_encoder"):
        raise ModelUnavailable(f"{path.name} is no projector that reads pictures", fix)
    kind = found.get("clip.projector_type") or found.get("clip.vision.projector_type") or ""
    names = ("image_size", "patch_size", "projector.scale_factor", "preproc_image_size")
    numbers = [found.get(f"clip.vision.{name}") for name in names]
    image, patch, merge, edge = (each if isinstance(each, int) else 0 for each in numbers)
    return Projector(str(kind), image, patch, merge or (4 if kind == "gemma3" else 1), edge)
