"""Pages without figures, which take a second each; ``drawn_figures`` draws the real ones."""

from __future__ import annotations

import pytest

from etui.bench import figures, publish


@pytest.fixture(autouse=True)
def plain_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing, and publish one small figure."""
    if "drawn_figures" not in request.fixturenames:
        for name in ("draw_accuracy_joules", "draw_power"):
            monkeypatch.setattr(figures, name, lambda *_: None)
        monkeypatch.setattr(publish, "_draw_figures", lambda *_: {"figures/subjects.svg": "<svg/>"})


@pytest.fixture
def drawn_figures() -> None:
    """Draw the real figures in this test."""
