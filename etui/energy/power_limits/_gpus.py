"""Power limits of GPUs: NVIDIA through NVML, AMD through hwmon, both also through zeusd.

NVML counts in milliwatts. Everyone may read limits; ``nvmlDeviceSetPowerManagementLimit`` needs
root. The enforced limit is the lowest of several (NVML API reference,
``nvmlDeviceGetEnforcedPowerLimit``): the limit set here, and those of the board or of a second
power connector.

hwmon has ``power1_cap`` and its range in microwatts; the kernel's driver cuts a limit to whole
watts. Format: Documentation/gpu/amdgpu/thermal.rst and Documentation/hwmon/sysfs-interface.rst of
Linux. What is enforced below the limit is not shown.

zeusd is the daemon of Zeus that sets GPU power limits for programs without root. Its protocol is
HTTP/1.1 over the Unix socket that ``ZEUSD_SOCK_PATH`` names, as in zeusd 0.5 (ml-energy/zeus:
zeusd/src/routes/gpu.rs, routes/server.rs, auth.rs, error.rs):

- ``GET /discover`` -> ``{"gpus": [{"id", "name", "pci_address", ...}], "enabled_api_groups": [...],
  "auth_required": bool}``, without a token;
- ``GET /auth/whoami`` -> ``{"sub", "scopes": [...]}``, only with a token (``ZEUSD_TOKEN``, sent as
  ``Authorization: Bearer ...``);
- ``POST /gpu/set_power_limit?gpu_ids=0&power_limit_mw=300000&block=true``: arguments are in the
  query, not in a body; 200 with an empty body when the driver has taken the limit;
- errors: 400, 401, 403, 404 or 500 with ``{"error": text}``, ``{"errors": {id: text}}`` or text.

The daemon's GPU numbers are its own, so a GPU is found by its PCI address, which zeusd before 0.5
does not state.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from etui.energy.power_limits.limit import (
    LimitDevice,
    LimitFiles,
    PowerLimit,
    WriteRefused,
    format_tee,
    to_microwatts,
)
from etui.energy.sources.hwmon import is_apu, read_address
from etui.energy.sources.nvml import NvmlSource
from etui.energy.sources.sysfs import entries, read_micro, text_or
from etui.energy.types import Channel

KNOB = "limit"
CAP_FILE = "power1_cap"
TIMEOUT_S = 10.0
"""A driver takes milliseconds to set a limit; a daemon that is silent for this long has failed."""
_CONTROL = "gpu-control"
_MOST_BYTES = 1 << 20
_NO_PERMISSION = 4
_REASONS = {
    0x002: "application clocks",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "heat (driver)",
    0x040: "heat (hardware)",
    0x080: "power brake (power supply)",
    0x100: "display clocks",
}
"""Bits of ``nvmlDeviceGetCurrentClocksEventReasons``: nvmlClocksEventReason* of nvml.h, without
those of an idle GPU and of the power limit itself."""
_OTHER_LIMIT = "another limit of the board"
SetLimit = Callable[[float], None]
"""Sets the limit of one GPU, in watts, through zeusd; WriteRefused if that fails."""


class GpuLimit(LimitDevice):
    """A GPU with a single limit, which zeusd may set where etui may not."""

    knob: str

    def __init__(self, scope: str, label: str, zeusd: SetLimit | None) -> None:
        self.scope = scope
        self.label = label
        self._zeusd = zeusd

    def read(self) -> PowerLimit:
        """Read the limit, its range and what is enforced."""
        watts = self._read_watts()
        low, high, default, enforced = self._read_facts()
        return PowerLimit(
            scope=self.scope,
            label=self.label,
            watts=watts,
            enforced_watts=enforced,
            min_watts=low,
            max_watts=high,
            default_watts=default,
            setter="etui" if self._may_write() else "zeusd" if self._zeusd else "user",
            command=self._format_command(now) if (now := watts or default) else "",
        )

    def read_knobs(self) -> Mapping[str, float | None]:
        """Read the limit."""
        return {self.knob: self._read_watts()}

    def write(self, knob: str, watts: float) -> None:
        """Set the limit, through zeusd if etui may not."""
        try:
            self._write(watts)
        except WriteRefused as refused:
            if not refused.denied or self._zeusd is None:
                raise
            self._zeusd(watts)

    def format_command(self, changes: Mapping[str, float]) -> str:
        """Return the command that sets the limit."""
        return "; ".join(self._format_command(watts) for watts in changes.values())

    @abstractmethod
    def _read_watts(self) -> float | None: ...

    @abstractmethod
    def _read_facts(self) -> tuple[float | None, float | None, float | None, float | None]:
        """Read the range, the default, and what is enforced."""

    @abstractmethod
    def _write(self, watts: float) -> None: ...

    @abstractmethod
    def _may_write(self) -> bool: ...

    @abstractmethod
    def _format_command(self, watts: float) -> str: ...


class NvmlGpuLimit(GpuLimit):
    """The limit of one NVIDIA GPU; ``index`` is its number for nvidia-smi."""

    knob = KNOB
    unit_watts = 0.001

    def __init__(
        self,
        source: NvmlSource,
        channel: Channel,
        handle: Any,
        index: int,
        is_root: bool,
        zeusd: SetLimit | None,
    ) -> None:
        super().__init__(channel.scope, f"GPU {index}", zeusd)
        self._source = source
        self._handle = handle
        self._is_root = is_root
        uuid = channel.scope.partition(":")[2]
        self._name = uuid if uuid.startswith("GPU-") else str(index)

    def explain_lower(self) -> str:
        """Name what the driver states as the reason for lower clocks."""
        bits = self._source.read_clock_reasons(self._handle) or 0
        return ", ".join(r for bit, r in _REASONS.items() if bits & bit) or _OTHER_LIMIT

    def _read_facts(self) -> tuple[float | None, float | None, float | None, float | None]:
        ask, handle = self._source.ask, self._handle
        low, high = ask("nvmlDeviceGetPowerManagementLimitConstraints", handle) or (None, None)
        default = ask("nvmlDeviceGetPowerManagementDefaultLimit", handle)
        enforced = ask("nvmlDeviceGetEnforcedPowerLimit", handle)
        return _to_watts(low), _to_watts(high), _to_watts(default), _to_watts(enforced)

    def _read_watts(self) -> float | None:
        return _to_watts(self._source.ask("nvmlDeviceGetPowerManagementLimit", self._handle))

    def _write(self, watts: float) -> None:
        nvml = self._source.library
        try:
            nvml.nvmlDeviceSetPowerManagementLimit(self._handle, round(watts * 1e3))
        except nvml.NVMLError as error:
            denied = getattr(error, "value", None) == _NO_PERMISSION
            why = "permission denied" if denied else str(error).rstrip(".").lower()
            raise WriteRefused(why, denied=denied) from error

    def _may_write(self) -> bool:
        return self._is_root

    def _format_command(self, watts: float) -> str:
        sudo = "" if sys.platform == "win32" else "sudo "
        return f"{sudo}nvidia-smi -i {self._name} -pl {watts:.10g}"


def find_gpus(
    source: NvmlSource, is_root: bool, find_zeusd: Callable[[str], SetLimit | None]
) -> list[NvmlGpuLimit]:
    """Find the GPUs that have a power limit; ``find_zeusd`` finds one by its PCI address."""
    found = []
    for position, (channel, handle) in enumerate(source.handles):
        if not source.ask("nvmlDeviceGetPowerManagementLimit", handle):
            continue
        index = source.ask("nvmlDeviceGetIndex", handle)
        pci = source.ask("nvmlDeviceGetPciInfo", handle)
        # As `lspci -D` writes it; empty if the driver has none.
        address = f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.0" if pci else ""
        number = position if index is None else int(index)
        remote = find_zeusd(address)
        found.append(NvmlGpuLimit(source, channel, handle, number, is_root, remote))
    return found


def _to_watts(milliwatts: int | None) -> float | None:
    return milliwatts / 1e3 if milliwatts else None


class AmdGpuLimit(GpuLimit):
    """The limit of one AMD GPU, in its folder of hwmon."""

    knob = CAP_FILE
    unit_watts = 1.0

    def __init__(
        self, scope: str, label: str, folder: Path, files: LimitFiles, zeusd: SetLimit | None
    ) -> None:
        super().__init__(scope, label, zeusd)
        self._folder = folder
        self._files = files

    def _read_facts(self) -> tuple[float | None, float | None, float | None, float | None]:
        names = ("power1_cap_min", "power1_cap_max", "power1_cap_default")
        low, high, default = (read_micro(self._folder / name) for name in names)
        return low, high or None, default or None, None

    def _read_watts(self) -> float | None:
        return read_micro(self._folder / CAP_FILE)

    def _write(self, watts: float) -> None:
        self._files.write(self._folder / CAP_FILE, to_microwatts(watts))

    def _may_write(self) -> bool:
        return self._files.can_write(self._folder / CAP_FILE)

    def _format_command(self, watts: float) -> str:
        return format_tee(to_microwatts(watts), [self._folder / CAP_FILE])


def find_amd_folders(sysfs_dir: Path) -> list[tuple[str, Path]]:
    """Find the AMD GPUs with a power limit: PCI address (or name in hwmon) and folder of each."""
    return [
        (read_address(folder / "device") or folder.name, folder)
        for folder in entries(sysfs_dir / "class" / "hwmon")
        if text_or(folder / "name") == "amdgpu" and (folder / CAP_FILE).is_file()
    ]


def make_amd_device(
    address: str,
    folder: Path,
    files: LimitFiles,
    zeusd: SetLimit | None,
    packages: frozenset[str] = frozenset(),
) -> AmdGpuLimit:
    """Make the device of a GPU; an APU has the scope of its package, as in the meter.

    ``packages`` are the scopes of packages that have a limit of their own (RAPL).
    """
    if not is_apu(folder / "device", [folder]):
        return AmdGpuLimit(f"gpu:{address}", f"AMD GPU {address}", folder, files, zeusd)
    scope = "package:0/hwmon" if "package:0" in packages else "package:0"
    return AmdGpuLimit(scope, "AMD GPU (whole APU)", folder, files, zeusd)


class Zeusd:
    """A running zeusd, with the token it may require."""

    def __init__(self, socket_path: str, token: str = "", timeout_s: float = TIMEOUT_S) -> None:
        self.socket_path = socket_path
        self._token = token
        self._timeout_s = timeout_s

    def find_gpus(self) -> Mapping[str, SetLimit]:
        """Find the GPUs whose limit this user may set: by PCI address; ZeusdError if none."""
        server = self._ask("GET", "/discover")
        groups = server.get("enabled_api_groups")
        if not isinstance(groups, list) or _CONTROL not in groups:
            raise ZeusdError(f"it does not serve the API group {_CONTROL!r}")
        if server.get("auth_required"):
            self._check_token()
        gpus = server.get("gpus")
        if not isinstance(gpus, list):
            raise ZeusdError("it does not list PCI addresses: update zeusd to 0.5 or newer")
        found: dict[str, SetLimit] = {}
        for gpu in gpus:
            address = gpu.get("pci_address") if isinstance(gpu, dict) else None
            number = gpu.get("id") if isinstance(gpu, dict) else None
            if isinstance(address, str) and isinstance(number, int):
                found[address.lower()] = partial(self.set_power_limit, number)
        return found

    def set_power_limit(self, number: int, watts: float) -> None:
        """Set a limit, and wait until the driver has taken it; WriteRefused if it has not."""
        query = {"gpu_ids": number, "power_limit_mw": round(watts * 1e3), "block": "true"}
        try:
            self._request("POST", f"/gpu/set_power_limit?{urlencode(query)}")
        except ZeusdError as error:
            raise WriteRefused(f"zeusd: {error}", may_follow=error.is_silent) from error

    def _check_token(self) -> None:
        if not self._token:
            raise ZeusdError("it requires a token: set ZEUSD_TOKEN")
        scopes = self._ask("GET", "/auth/whoami").get("scopes")
        if not isinstance(scopes, list) or _CONTROL not in scopes:
            raise ZeusdError(f"the token in ZEUSD_TOKEN lacks the scope {_CONTROL!r}")

    def _ask(self, method: str, path: str) -> dict[str, Any]:
        body = self._request(method, path)
        try:
            document = json.loads(body)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise ZeusdError(f"its answer to {path} is not a JSON object")
        return document

    def _request(self, method: str, path: str) -> bytes:
        if not hasattr(socket, "AF_UNIX"):
            raise ZeusdError("this system has no unix sockets")
        connection = _UnixConnection(self.socket_path, self._timeout_s)
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            body = response.read(_MOST_BYTES)
        except TimeoutError:
            why = f"it did not answer within {self._timeout_s:g} s"
            raise ZeusdError(why, is_silent=True) from None
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ZeusdError(f"it cannot be reached ({why.lower()})", is_silent=True) from error
        except ValueError as error:  # a token with a line end, a path too long for a socket
            raise ZeusdError(str(error)) from error
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            raise ZeusdError(parse_error(response.status, body))
        return body


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class ZeusdError(Exception):
    """zeusd cannot be reached, or its answer cannot be used.

    If it ``is_silent``, no answer came: the request may have been carried out, or may be later.
    """

    def __init__(self, why: str, *, is_silent: bool = False) -> None:
        super().__init__(why)
        self.is_silent = is_silent


def parse_error(status: int, body: bytes) -> str:
    """Build one line from an error of zeusd: the texts of its JSON, or its plain text."""
    text = body.decode("utf-8", errors="replace").strip()
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if isinstance(document, dict):
        errors = document.get("errors")
        if isinstance(errors, dict) and errors:
            text = "; ".join(str(value) for value in errors.values())
        elif document.get("error"):
            text = str(document["error"])
    text = " ".join(text.split())[:200].rstrip(".")
    return f"{text or 'no reason given'} (HTTP {status})"
