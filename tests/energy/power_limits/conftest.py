"""Simulated devices with power limits: a package, an AMD GPU, NVIDIA GPUs, a zeusd."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from etui.config.config import Config
from etui.energy.power_limits.limit import LimitFiles, WriteRefused
from etui.energy.power_limits.limits import PowerLimits, open_power_limits
from tests.energy.power_limits.fake_pynvml import FakeNvml
from tests.energy.power_limits.fake_zeusd import FakeZeusd, serve

Open = Callable[..., PowerLimits]


class StubbornFiles(LimitFiles):
    """Files that round, refuse or fail, as a kernel may; root is refused nothing by a mode.

    Args:
        writable: Whether the files may be written.
        step: Limits are cut to multiples of this, microwatts.
        failure: The error of every write; empty without.
    """

    def __init__(self, *, writable: bool = True, step: int = 1, failure: str = "") -> None:
        self.writable = writable
        self.step = step
        self.failure = failure
        self.writes: list[tuple[str, int]] = []

    def can_write(self, path: Path) -> bool:
        return self.writable

    def write(self, path: Path, microwatts: int) -> None:
        if not self.writable:
            raise WriteRefused("permission denied", denied=True)
        if self.failure:
            raise WriteRefused(self.failure)
        self.writes.append((path.name, microwatts))
        super().write(path, microwatts // self.step * self.step)


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    return tmp_path / "sysfs"


@pytest.fixture
def open_limits(config: Config) -> Iterator[Open]:
    """Opens limits with a fake pynvml (no GPU unless one is given), and closes them."""
    with ExitStack() as stack:

        def open_them(nvml: FakeNvml | None = None, **options: Any) -> PowerLimits:
            given = {"environ": {}, "root": False, "files": StubbornFiles(), **options}
            library: Any = nvml or NoGpu()
            return stack.enter_context(open_power_limits(config, library=library, **given))

        yield open_them


class NoGpu(FakeNvml):
    """A driver that lists no GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = []


Serve = Callable[..., FakeZeusd]


@pytest.fixture
def zeusd() -> Iterator[Serve]:
    """Starts a zeusd for the GPUs of a fake driver."""
    # Not below tmp_path: the path of a Unix socket has at most 107 bytes.
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="zeusd-") as folder:

        def start(nvml: FakeNvml, **options: Any) -> FakeZeusd:
            addresses = [f"0000:{i + 1:02x}:00.0" for i in range(len(nvml.limits))]
            daemon = FakeZeusd(
                Path(folder) / "zeusd.sock", addresses, partial(FakeNvml.set_limit, nvml), **options
            )
            return stack.enter_context(serve(daemon))

        yield start
