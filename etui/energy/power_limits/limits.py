"""All power limits of this machine: read without privileges, set and verified where allowed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Self

from etui.config.config import Config
from etui.energy.power_limits._gpus import (
    SetLimit,
    Zeusd,
    ZeusdError,
    find_amd_folders,
    find_gpus,
    make_amd_device,
)
from etui.energy.power_limits._rapl import find_packages
from etui.energy.power_limits.limit import (
    LimitDevice,
    LimitFiles,
    PowerLimit,
    check_range,
    describe_limit,
    is_root,
)
from etui.energy.scopes import family as find_family
from etui.energy.sources.nvml import NvmlSource
from etui.errors import UsageError
from etui.text import suggest


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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the driver; nothing can be read afterwards."""
        self._close()

    def read(self) -> tuple[PowerLimit, ...]:
        """Read the limit of every device: GPUs first, then CPU packages."""
        return tuple(self.read_one(scope) for scope in self._devices)

    def read_one(self, scope: str) -> PowerLimit:
        """Read the limit of a device; UsageError as in :meth:`device`."""
        limit = self.device(scope).read()
        return replace(limit, max_watts=self._found[scope].max_watts)

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
    remote: Mapping[str, SetLimit] = {}
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
