"""Settings of a turn that are only known at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any


class LiveSettings(Mapping[str, Any]):
    """Settings of a turn, of which some are only known when it has ended.

    Args:
        late: Returns the others, whenever they are read.
    """

    def __init__(self, fixed: Mapping[str, Any], late: Callable[[], Mapping[str, Any]]) -> None:
        self._fixed = fixed
        self._late = late

    def __getitem__(self, name: str) -> Any:
        return {**self._fixed, **self._late()}[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._fixed, **self._late()})

    def __len__(self) -> int:
        return len({**self._fixed, **self._late()})
