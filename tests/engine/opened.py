"""A model brought into memory, with everything that was told meanwhile."""

from __future__ import annotations

from pathlib import Path

from etui.engine.llama_session import LlamaSession
from etui.engine.residency import Residency
from etui.events import Loaded, Unloaded
from etui.models.spec import ModelSpec


def opened(
    residency: Residency,
    spec: ModelSpec,
    path: Path,
    draft: tuple[ModelSpec, Path] | None = None,
) -> tuple[LlamaSession, Loaded | None, list[Unloaded]]:
    """A model's session, its load if it was not there, and what gave way for it."""
    load: Loaded | None = None
    unloads: list[Unloaded] = []
    events = residency.session(spec, path, draft)
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            return end.value, load, unloads
        if isinstance(event, Unloaded):
            assert load is None
            unloads.append(event)
        else:
            load = event
