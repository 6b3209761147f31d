"""All power limits of this machine: read without privileges, set and verified where allowed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Self

from etui.config.config import Config
from etui.energy.power_limits._gpus import (
    Zeusd,
    ZeusdError,
    ZeusdGpu,
    find_amd_folders,
    find_gpus,
    make_amd_device,
)
from etui.energy.power_limits._rapl import find_packages
from etui.energy.power_limits.limit import (
    EXACT_WATTS,
    AppliedLimit,
    CapRequest,
    LimitDevice,
    LimitFiles,
    PowerLimit,
    WriteRefused,
    check_range,
    describe_limit,
    is_root,
    judge_applied,
)
from etui.energy.scopes import family as find_family
from etui.energy.sources.nvml import NvmlSource
from etui.errors import UsageError
from etui.text import suggest
from etui.units import limit_text

if TYPE_CHECKING:
    from etui.energy.power_limits.hold import LimitHold

Ask = Callable[[CapRequest], None]
"""Asks the user to set a limit and returns when the user says that it is set."""

MOST_REQUESTS = 3
"""How often the user is asked for one limit before it counts as refused."""


class PowerLimits:
    """The power limits of this machine; ``problems`` names ways to set them that fail."""

    def __init__(
        self,
        devices: Sequence[LimitDevice],
        problems: Sequence[str] = (),
        close: Callable[[], None] = lambda: None,
        zeusd_socket: str = "",
    ) -> None:
        self._devices = {device.scope: device for device in devices}
        self._close = close
        self.problems = tuple(problems)
        self.zeusd_socket = zeusd_socket
        # The range of a package depends on its limit (_rapl.py), so it is that of the beginning.
        self._found = {scope: device.read() for scope, device in self._devices.items()}
        self._recorder: LimitHold | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the driver; nothing can be read afterwards."""
        self._close()

    def read(self) -> tuple[PowerLimit, ...]:
        """Read the limit of every device: GPUs first, then CPU packages."""
        return tuple(self._read(device) for device in self._devices.values())

    def describe(self) -> tuple[str, ...]:
        """Describe every limit in one line, for reports and notes."""
        return tuple(describe_limit(limit) for limit in self.read())

    def scopes(self, family: str) -> tuple[str, ...]:
        """List the scopes of a family (``gpu``, ``package``): all that get the same limit."""
        return tuple(scope for scope in self._devices if find_family(scope) == family)

    def device(self, scope: str) -> LimitDevice:
        """Return a device; UsageError if none of this scope has a limit that can be read."""
        found = self._devices.get(scope)
        if found is not None:
            return found
        if not self._devices:
            raise UsageError(
                "no device of this machine has a power limit that etui can read",
                "`etui doctor` lists what was found",
            )
        hint = suggest(scope, self._devices) or f"choose one of {', '.join(self._devices)}"
        raise UsageError(f"no power limit of {scope!r} was found", hint)

    def check(self, scope: str, watts: float) -> None:
        """Check that a device can have a limit, without touching anything.

        Raises:
            UsageError: There is no such device, or the limit is outside of its range.
        """
        self.device(scope)
        check_range(self._found[scope], watts)

    def apply(self, scope: str, watts: float, ask: Ask | None = None) -> AppliedLimit:
        """Set the limit of a device, and read it back; without ``ask`` directly or through zeusd.

        Works within a :class:`LimitHold` only, which restores the limit whatever happens. The limit
        found at the beginning of the hold brings back all that was found, RAPL's ``short_term``
        included.

        Raises:
            UsageError: There is no such device, or the limit is outside of its range.
            EtuiError: The journal cannot be written. After either, nothing was touched.
            RuntimeError: No hold is open.
        """
        self.check(scope, watts)
        if self._recorder is None:
            raise RuntimeError("a power limit can only be changed within a LimitHold")
        device = self._devices[scope]
        before = self._read(device)
        if ask is None and before.setter == "user":
            command = device.format_command(device.plan(watts))
            failure = f"refused: permission denied; as a user: {command}"
            return judge_applied(watts, before, before, device.unit_watts, failure=failure)
        changes = self._recorder.plan(device, watts)
        self._recorder.begin(device, changes)
        failure, may_follow = "", False
        if ask is not None:
            failure = self._ask_user(device, watts, changes, ask)
        else:
            failure, may_follow = self._write(device, changes)
        after = self._read(device)
        if not may_follow:
            self._recorder.settle(device)
        return judge_applied(
            watts,
            before,
            after,
            device.unit_watts,
            failure=failure,
            lower_because=device.explain_lower(),
        )

    @contextmanager
    def recorded_by(self, recorder: LimitHold) -> Iterator[None]:
        """Allow changes while a recorder keeps what is needed to restore them."""
        if self._recorder is not None:
            raise RuntimeError("a LimitHold is open already")
        self._recorder = recorder
        try:
            yield
        finally:
            self._recorder = None

    def _read(self, device: LimitDevice) -> PowerLimit:
        limit = device.read()
        found = self._found.get(device.scope)
        return limit if found is None else replace(limit, max_watts=found.max_watts)

    def _write(self, device: LimitDevice, changes: Mapping[str, float]) -> tuple[str, bool]:
        """Write knobs; return why one was refused (or ""), and whether it may still be set."""
        for knob, watts in changes.items():
            try:
                device.write(knob, watts)
            except WriteRefused as refused:
                return f"refused: {refused.why}", refused.may_follow
        return "", False

    def _ask_user(
        self, device: LimitDevice, watts: float, changes: Mapping[str, float], ask: Ask
    ) -> str:
        """Ask until the limit is set; return why it is not, or an empty text."""
        problem = ""
        for _ in range(MOST_REQUESTS):
            difference = _find_difference(device, changes)
            if not difference:
                return ""
            now = device.read().watts
            command = device.format_command(changes)
            ask(CapRequest(device.scope, device.label, watts, now, command, problem))
            problem = _find_difference(device, changes)
        return f"not set by the user: {problem}" if problem else ""


def _find_difference(device: LimitDevice, changes: Mapping[str, float]) -> str:
    """Return which value is not as it should be; empty if all are, within the driver's unit."""
    knobs = device.read_knobs()
    most = max(device.unit_watts, EXACT_WATTS)
    for knob, watts in changes.items():
        now = knobs.get(knob)
        if now is None or abs(now - watts) > most:
            part = f" ({knob})" if len(changes) > 1 else ""
            return (
                f"the limit of {device.label}{part} is {limit_text(now)}, not {limit_text(watts)}"
            )
    return ""


def open_power_limits(
    config: Config,
    environ: Mapping[str, str] = os.environ,
    *,
    files: LimitFiles | None = None,
    root: bool | None = None,
    zeusd_socket: str = "",
    library: ModuleType | None = None,
    clock: Callable[[], int] = time.monotonic_ns,
) -> PowerLimits:
    """Find every power limit of this machine; the caller closes the result.

    Args:
        environ: ``ZEUSD_SOCK_PATH`` and ``ZEUSD_TOKEN`` of a running zeusd.
        files: Access to sysfs.
        zeusd_socket: Socket of zeusd if the environment names none.
    """
    files = files or LimitFiles()
    source = NvmlSource(clock, library=library)
    cards = find_amd_folders(config.sysfs_dir)
    remote: Mapping[str, ZeusdGpu] = {}
    problems = []
    socket = environ.get("ZEUSD_SOCK_PATH") or zeusd_socket
    if socket and (source.handles or cards):
        try:
            token = environ.get("ZEUSD_TOKEN", "")
            remote = Zeusd(socket, token).find_gpus()
        except ZeusdError as error:
            problems.append(f"zeusd at {socket} cannot set limits: {error}")
    packages = find_packages(config.sysfs_dir, files)
    scopes = frozenset(package.scope for package in packages)
    devices: list[LimitDevice] = []
    if source.library is not None:
        devices += find_gpus(source, is_root() if root is None else root, remote.get)
    devices += [
        make_amd_device(address, folder, files, remote.get(address.lower()), scopes)
        for address, folder in cards
    ]
    devices += packages
    return PowerLimits(devices, problems, source.close, socket if remote else "")
