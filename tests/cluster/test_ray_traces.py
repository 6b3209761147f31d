"""What a local Ray leaves behind is ended and removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from types import SimpleNamespace

import psutil
import pytest

from etui.cluster import connect as ray_traces
from etui.cluster.connect import end_processes, hold_signals, make_folder
from etui.errors import EtuiError


def start(*words):
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", *words])


def test_processes_of_ray_that_stay_behind_are_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_traces, "_GRACE_SECONDS", 0.1)
    shut = []
    ray = SimpleNamespace(
        __file__=str(tmp_path / "ray" / "__init__.py"), shutdown=lambda: shut.append(True)
    )
    agent = str(tmp_path / "ray" / "agent.py")
    earlier = start(agent)
    found = [earlier]
    try:
        with suppress(KeyboardInterrupt), end_processes(ray):
            found += [start(agent), start("other")]
            deadline = time.monotonic() + 60  # until both are past fork, with their own words
            while time.monotonic() < deadline:
                time.sleep(0.01)
                words = [psutil.Process(each.pid).cmdline()[-1:] for each in found]
                if words == [[agent], [agent], ["other"]]:
                    break
            raise KeyboardInterrupt
        assert shut == [True]
        assert found[1].wait(60) != 0
        assert [found[0].poll(), found[2].poll()] == [None, None]
    finally:
        for process in found:
            process.kill()
            process.wait()


def test_the_folder_of_ray_is_private_and_removed(tmp_path, monkeypatch):
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(place))
    with suppress(KeyboardInterrupt), make_folder() as folder:
        os.mkdir(f"{folder}/ray")
        os.chmod(f"{folder}/ray", 0o777)  # as Ray does
        (above,) = place.iterdir()
        assert above.stat().st_mode & 0o077 == 0
        raise KeyboardInterrupt
    assert list(place.iterdir()) == []


@pytest.fixture
def interruptible():
    """Let Ctrl-C raise, also where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_waits_until_ray_has_started_and_a_second_does_not():
    seen = []
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        hold(seen, signal.SIGINT)
    assert seen == ["started", "connected"]
    with pytest.raises(KeyboardInterrupt):
        hold(seen, signal.SIGINT, signal.SIGINT)
    assert seen == ["started", "connected", "started"]
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def hold(seen, *numbers):
    with hold_signals():
        seen.append("started")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as Ray replaces it
        for number in numbers:
            signal.raise_signal(number)
        seen.append("connected")


def test_a_place_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "missing"))
    with pytest.raises(EtuiError, match="cannot make a folder for Ray in"), make_folder():
        pass
