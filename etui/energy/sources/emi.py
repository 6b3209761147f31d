"""CPU packages and memory on Windows, through the Energy Meter Interface (EMI).

Drivers give cumulative counters in picowatt-hours by IOCTLs. Windows 11 has such devices for RAPL,
with channels named ``RAPL_Package0_PKG``, ``..._DRAM`` and the parts of a package, which are never
read. Format: emi.h of the Windows SDK.
"""

from __future__ import annotations

import ctypes
import re
import struct
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from etui.energy.types import BaseSource, Channel, Kind, Reading

VERSION, METADATA_SIZE, METADATA, MEASUREMENT = (0x224000 + 4 * number for number in range(4))
"""The IOCTLs of EMI."""
EmiDevice = Callable[[int, int], bytes]
"""Sends an IOCTL to a device (code, most bytes of its answer); OSError if that fails."""

_NAME = re.compile(r"RAPL_Package(\d+)_(PKG|DRAM)", re.IGNORECASE)
_PICOWATT_HOUR = 3.6e-9  # Joules
_VERSION = 2  # Of 1, a device has a single rail of a board, and never a package
_HEADER = struct.Struct("<66xH")  # Number of channels, after the maker's names
_CHANNEL = struct.Struct("<IH")  # Unit, and size of the name that follows
_MEASURED = struct.Struct("<Q8x")  # Energy, before the time of some clock in 100 ns
_MOST_BYTES = 1 << 14


class EmiSource(BaseSource):
    """The packages and memory whose energy a device of EMI counts, each once.

    Args:
        devices: Access to each device; None opens those of Windows.
    """

    def __init__(
        self,
        clock: Callable[[], int] = time.monotonic_ns,
        devices: Sequence[EmiDevice] | None = None,
    ) -> None:
        super().__init__(clock)
        self._places: dict[str, tuple[EmiDevice, int]] = {}
        """Channel id -> its device, and its number there."""
        for device in _open_devices() if devices is None else devices:
            try:
                self._open(device)
            except (OSError, struct.error, UnicodeDecodeError) as error:
                why = f"an energy meter of Windows cannot be read: {error or type(error).__name__}"
                self.refuse("emi", why, "run etui as administrator")

    def read_channel(self, channel: Channel) -> Reading:
        """Read a counter in joules."""
        device, number = self._places[channel.id]
        begin_ns = self.clock()
        try:
            measured = device(MEASUREMENT, _MOST_BYTES)
            (count,) = _MEASURED.unpack_from(measured, number * _MEASURED.size)
        except (OSError, struct.error):
            return self.date(begin_ns, None)
        return self.date(begin_ns, count * _PICOWATT_HOUR)

    def _open(self, device: EmiDevice) -> None:
        (version,) = struct.unpack("<H", device(VERSION, 2))
        if version < _VERSION:
            return
        (size,) = struct.unpack("<I", device(METADATA_SIZE, 4))
        metadata = device(METADATA, size)
        (count,) = _HEADER.unpack_from(metadata)
        at = _HEADER.size
        for number in range(count):
            unit, size = _CHANNEL.unpack_from(metadata, at)
            at += _CHANNEL.size + size
            match = _NAME.fullmatch(metadata[at - size : at].decode("utf-16-le").rstrip("\0"))
            if match is None or unit:  # 0 is the picowatt-hour, the only unit there is
                continue
            memory = match[2].upper() == "DRAM"
            scope = f"{'dram' if memory else 'package'}:{match[1]}"
            if scope not in self._places:  # else a die, which mirrors the counter of its package
                self._places[scope] = device, number
                label = f"{'memory' if memory else 'CPU package'} {match[1]}"
                self.add(Channel(scope, scope, Kind.COUNTER, label=label))


def _open_devices() -> list[EmiDevice]:
    """Open every device of EMI; they stay open for the life of the process."""
    if sys.platform != "win32":
        return []
    windows, manager = ctypes.WinDLL("kernel32", use_last_error=True), ctypes.WinDLL("cfgmgr32")
    word, pointer = ctypes.c_ulong, ctypes.c_void_p
    windows.CreateFileW.restype = pointer
    windows.DeviceIoControl.argtypes = [
        pointer, word, pointer, word, pointer, word, pointer, pointer,
    ]  # fmt: skip
    guid = struct.pack("<IHH8B", 0x45BD8344, 0x7ED6, 0x49CF, *bytes.fromhex("A440C276C933B053"))
    length = word()
    manager.CM_Get_Device_Interface_List_SizeW(ctypes.byref(length), guid, None, 0)
    paths = ctypes.create_unicode_buffer(max(length.value, 1))
    manager.CM_Get_Device_Interface_ListW(guid, None, paths, length, 0)
    return [_open_device(windows, path) for path in "".join(paths[:]).split("\0") if path]


def _open_device(windows: Any, path: str) -> EmiDevice:
    # To read, shared with all others, an existing one.
    device = windows.CreateFileW(path, 0x80000000, 3, None, 3, 0, None)

    def control(code: int, size: int) -> bytes:
        answer, length = ctypes.create_string_buffer(size), ctypes.c_ulong()
        if not windows.DeviceIoControl(
            device, code, None, 0, answer, size, ctypes.byref(length), None
        ):
            failure = getattr(ctypes, "get_last_error", int)()
            raise OSError(f"Windows error {failure} of {path}")
        return answer.raw[: length.value]

    return control
