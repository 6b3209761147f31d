"""Projectors (``mmproj``), which read pictures for a model: check them, and size a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from etui.errors import ModelUnavailable
from etui.models.gguf import check_gguf

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
    """Read the header of the projector of a model.

    Raises:
        ModelUnavailable: It is missing, damaged, or reads no pictures.
    """
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
