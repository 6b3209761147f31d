"""Models that come into memory and leave it, without any."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from etui.errors import EtuiError
from etui.events import Loaded, Unloaded


@dataclass(kw_only=True)
class FakeResidence:
    """What a runner does with models beside answering.

    Attributes:
        held: Names of the models in memory.
        resting: Why everything was given up, each time.
        busy: Whether an answer runs.
        refusal: Raised instead, as while an answer runs.
    """

    held: list[str] = field(default_factory=list)
    resting: list[str] = field(default_factory=list)
    refusal: EtuiError | None = None
    closed: bool = False
    cooled: int = 0
    busy: bool = False
    smallest: str | None = "smollm2-135m"

    on_loaded: Callable[[Loaded], object] = lambda _loaded: None
    on_unloaded: Callable[[str], object] = lambda _model: None

    def small_model(self) -> str | None:
        return self.smallest

    def load(self, model: str) -> Loaded | None:
        if self.refusal:
            raise self.refusal
        if model in self.held:
            return None
        self.held.append(model)
        loaded = Loaded(model, 0, 400_000_000, 0, 98_362_432)
        self.on_loaded(loaded)
        return loaded

    def unload(self, model: str) -> Unloaded | None:
        if self.refusal:
            raise self.refusal
        if model not in self.held:
            return None
        self.held.remove(model)
        self.on_unloaded(model)
        return Unloaded(model, None, 0, 100_000_000, "asked", 98_362_432)

    def residents(self) -> Sequence[str]:
        return tuple(self.held)

    def cool_downs(self) -> int:
        return self.cooled

    def is_busy(self) -> bool:
        return self.busy

    @contextmanager
    def at_rest(self, why: str) -> Iterator[Callable[[], bool]]:
        if self.refusal:
            raise self.refusal
        self.held.clear()
        self.resting.append(why)
        yield lambda: self.closed
