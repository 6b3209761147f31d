"""What is known of a model's file without reading it."""

from __future__ import annotations

from typing import Literal

from etui.config import Config
from etui.model_spec import ModelSpec
from etui.models import model_path, recorded_sha256

FileState = Literal["absent", "unchecked", "refused", "checked"]
"""``unchecked``: no hash of this file was taken yet; ``refused``: of another sha256 or size than
its entry's."""


def file_state(spec: ModelSpec, config: Config) -> FileState:
    """Whether the model's file is there, and whether it is the right one."""
    path = model_path(spec, config)
    try:
        size = path.stat().st_size if path.is_file() else None
    except OSError:
        size = None  # removed since
    if size is None:
        return "absent"
    checked = recorded_sha256(spec, config)
    if spec.sha256 is not None and (
        checked != spec.sha256 if checked else spec.file_bytes not in (None, size)
    ):
        return "refused"
    return "unchecked" if checked is None else "checked"
