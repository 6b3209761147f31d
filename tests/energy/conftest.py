"""A powercap tree in the test's own sysfs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Zone = Callable[..., Path]


@pytest.fixture
def powercap(tmp_path: Path) -> Zone:
    """Makes zones of a powercap tree below the test's sysfs."""

    def make(
        zone: str,
        name: str,
        energy_uj: int | str | None = 1_000_000,
        range_uj: int | str | None = 262_143_328_850,
        limit_uw: int | None = 65_000_000,
    ) -> Path:
        folder = tmp_path / "sysfs" / "class" / "powercap" / zone
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "name").write_text(f"{name}\n")
        for file, value in (
            ("energy_uj", energy_uj),
            ("max_energy_range_uj", range_uj),
            ("constraint_0_power_limit_uw", limit_uw),
        ):
            if value is not None:
                (folder / file).write_text(f"{value}\n")
        return folder

    return make
