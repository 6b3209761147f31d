"""A machine at work is refused before anything is measured."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from etui.energy.idle import refuse_busy
from etui.errors import EtuiError


@pytest.fixture
def recorder() -> Any:
    return SimpleNamespace(
        watch=None,
        cpu_watch=None,
        selection=SimpleNamespace(summed=()),
        settle=lambda end_ns: None,
    )


def test_a_machine_at_work_is_refused(recorder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    consequence = "the joules will be too high"
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 3.0)
    refuse_busy(recorder, force=False, note=notes.append, consequence=consequence)
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 64.0)
    with pytest.raises(EtuiError, match=r"the machine is not idle: the CPUs are busy \(64%\)"):
        refuse_busy(recorder, force=False, note=notes.append, consequence=consequence)
    assert not notes
    refuse_busy(recorder, force=True, note=notes.append, consequence=consequence)
    assert notes == [
        "the machine is not idle: the CPUs are busy (64%); the joules will be too high"
    ]
