"""Public folders of synthetic runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from etui.bench import publish as folder
from etui.bench.folder import Recorded
from etui.bench.publish import publish_run
from tests.bench import synthetic
from tests.bench.publish.owner import MACHINE, NO_OWNER

Publish = Callable[..., Path]


@pytest.fixture(autouse=True)
def plain_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a small figure, as drawing takes a second; ``drawn_figures`` draws the real ones."""
    if "drawn_figures" not in request.fixturenames:
        figures = {"figures/subjects.svg": "<svg/>"}
        monkeypatch.setattr(folder, "_draw_figures", lambda config, samples: dict(figures))


@pytest.fixture
def drawn_figures() -> None:
    """Draw the real figures in this test."""


@pytest.fixture
def publish(tmp_path: Path) -> Publish:
    """``publish("name", arms=("direct",))`` writes a public folder below ``public``."""

    def write(
        name: str,
        arms=("direct", "think"),
        *,
        seed: int = 0,
        kind: str | None = "counter",
        most: int | None = None,
        **changes,
    ) -> Path:
        config = synthetic.config(arms, per_subject=1, machine=MACHINE)
        config = replace(config, **({"run_id": f"run-{name}"} | changes))
        samples = tuple(synthetic.samples(config, seed, kind))[:most]
        place = tmp_path / "public" / name
        publish_run(Recorded(config, samples, {}), place, licence="CC-BY-4.0", private=NO_OWNER)
        return place

    return write
