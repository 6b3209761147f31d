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
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from etui.energy.power_limits.limit import (
    LimitDevice,
    LimitFiles,
    PowerLimit,
    Setter,
    WriteRefused,
    format_tee,
    to_microwatts,
)
from etui.energy.sources.hwmon import is_apu, read_address
from etui.energy.sources.nvml import NvmlSource
from etui.energy.sources.sysfs import entries, read_micro, read_positive, text_or
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


class GpuLimit(LimitDevice):
    """A GPU with a single limit, which zeusd may set where etui may not."""

    knob: str

    def __init__(self, scope: str, label: str, zeusd: ZeusdGpu | None) -> None:
        self.scope = scope
        self.label = label
        self._zeusd = zeusd

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
            self._zeusd.set_power_limit(watts)

    def format_command(self, changes: Mapping[str, float]) -> str:
        """Return the command that sets the limit."""
        return "; ".join(self._format_command(watts) for watts in changes.values())

    def _find_setter(self) -> Setter:
        if self._may_write():
            return "etui"
        return "zeusd" if self._zeusd is not None else "user"

    @abstractmethod
    def _read_watts(self) -> float | None: ...

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
        zeusd: ZeusdGpu | None,
    ) -> None:
        super().__init__(channel.scope, f"GPU {index}", zeusd)
        self._source = source
        self._handle = handle
        self._is_root = is_root
        uuid = channel.scope.partition(":")[2]
        self._name = uuid if uuid.startswith("GPU-") else str(index)

    def read(self) -> PowerLimit:
        """Read the limit, its range and what is enforced."""
        watts = self._read_watts()
        default = self._ask_watts("nvmlDeviceGetPowerManagementDefaultLimit")
        span = self._ask("nvmlDeviceGetPowerManagementLimitConstraints") or (None, None)
        command_watts = watts or default
        return PowerLimit(
            scope=self.scope,
            label=self.label,
            watts=watts,
            enforced_watts=self._ask_watts("nvmlDeviceGetEnforcedPowerLimit"),
            min_watts=_to_watts(span[0]),
            max_watts=_to_watts(span[1]),
            default_watts=default,
            setter=self._find_setter(),
            command=self.format_command({KNOB: command_watts} if command_watts else {}),
        )

    def explain_lower(self) -> str:
        """Name what the driver states as the reason for lower clocks."""
        bits = self._source.read_clock_reasons(self._handle) or 0
        return ", ".join(r for bit, r in _REASONS.items() if bits & bit) or _OTHER_LIMIT

    def _read_watts(self) -> float | None:
        return self._ask_watts("nvmlDeviceGetPowerManagementLimit")

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
        return f"sudo nvidia-smi -i {self._name} -pl {watts:.10g}"

    def _ask_watts(self, function: str) -> float | None:
        return _to_watts(self._ask(function))

    def _ask(self, function: str) -> Any:
        return self._source.ask(function, self._handle)


def find_gpus(
    source: NvmlSource, is_root: bool, find_zeusd: Callable[[str], ZeusdGpu | None]
) -> list[NvmlGpuLimit]:
    """Find the GPUs that have a power limit; ``find_zeusd`` finds one by its PCI address."""
    found = []
    for position, (channel, handle) in enumerate(source.handles):
        nvml = source.library
        try:
            limit = nvml.nvmlDeviceGetPowerManagementLimit(handle)
        except (nvml.NVMLError, AttributeError):
            continue
        if not limit:
            continue
        try:
            index = int(nvml.nvmlDeviceGetIndex(handle))
        except (nvml.NVMLError, AttributeError):
            index = position
        remote = find_zeusd(_read_pci_address(nvml, handle))
        found.append(NvmlGpuLimit(source, channel, handle, index, is_root, remote))
    return found


def _read_pci_address(nvml: Any, handle: Any) -> str:
    """Read the PCI address as ``lspci -D`` writes it; empty if the driver has none."""
    try:
        pci = nvml.nvmlDeviceGetPciInfo(handle)
    except (nvml.NVMLError, AttributeError):
        return ""
    return f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.0"


def _to_watts(milliwatts: int | None) -> float | None:
    return milliwatts / 1e3 if milliwatts else None


class AmdGpuLimit(GpuLimit):
    """The limit of one AMD GPU, in its folder of hwmon."""

    knob = CAP_FILE
    unit_watts = 1.0

    def __init__(
        self, scope: str, label: str, folder: Path, files: LimitFiles, zeusd: ZeusdGpu | None
    ) -> None:
        super().__init__(scope, label, zeusd)
        self._folder = folder
        self._files = files

    def read(self) -> PowerLimit:
        """Read the limit and its range."""
        watts = self._read_watts()
        default = read_positive(self._folder / "power1_cap_default")
        command_watts = watts or default
        return PowerLimit(
            scope=self.scope,
            label=self.label,
            watts=watts,
            enforced_watts=None,
            min_watts=read_micro(self._folder / "power1_cap_min"),
            max_watts=read_positive(self._folder / "power1_cap_max"),
            default_watts=default,
            setter=self._find_setter(),
            command=self.format_command({CAP_FILE: command_watts} if command_watts else {}),
        )

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
    zeusd: ZeusdGpu | None,
    packages: frozenset[str] = frozenset(),
) -> AmdGpuLimit:
    """Make the device of a GPU; an APU has the scope of its package, as in the meter.

    ``packages`` are the scopes of packages that have a limit of their own (RAPL).
    """
    if not is_apu(folder / "device"):
        return AmdGpuLimit(f"gpu:{address}", f"AMD GPU {address}", folder, files, zeusd)
    scope = "package:0/hwmon" if "package:0" in packages else "package:0"
    return AmdGpuLimit(scope, "AMD GPU (whole APU)", folder, files, zeusd)


class Zeusd:
    """A running zeusd, with the token it may require."""

    def __init__(self, socket_path: str, token: str = "", timeout_s: float = TIMEOUT_S) -> None:
        self.socket_path = socket_path
        self._token = token
        self._timeout_s = timeout_s

    def find_gpus(self) -> Mapping[str, ZeusdGpu]:
        """Find the GPUs whose limit this user may set: PCI address -> GPU; ZeusdError if none."""
        server = self._ask("GET", "/discover")
        groups = server.get("enabled_api_groups")
        if not isinstance(groups, list) or _CONTROL not in groups:
            raise ZeusdError(f"it does not serve the API group {_CONTROL!r}")
        if server.get("auth_required"):
            self._check_token()
        gpus = server.get("gpus")
        if not isinstance(gpus, list):
            raise ZeusdError("it does not list PCI addresses: update zeusd to 0.5 or newer")
        found: dict[str, ZeusdGpu] = {}
        for gpu in gpus:
            address = gpu.get("pci_address") if isinstance(gpu, dict) else None
            number = gpu.get("id") if isinstance(gpu, dict) else None
            if isinstance(address, str) and isinstance(number, int):
                found[address.lower()] = ZeusdGpu(self, number)
        return found

    def set_power_limit(self, number: int, watts: float) -> None:
        """Set a limit, and wait until the driver has taken it; ZeusdError if anything refused."""
        query = {"gpu_ids": number, "power_limit_mw": round(watts * 1e3), "block": "true"}
        self._request("POST", f"/gpu/set_power_limit?{urlencode(query)}")

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
        connection = _UnixConnection(self.socket_path, self._timeout_s)
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            body = response.read(_MOST_BYTES)
        except TimeoutError:
            raise ZeusdSilent(f"it did not answer within {self._timeout_s:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ZeusdSilent(f"it cannot be reached ({why.lower()})") from error
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


@dataclass(frozen=True, slots=True)
class ZeusdGpu:
    """One GPU of a running zeusd."""

    daemon: Zeusd
    number: int

    def set_power_limit(self, watts: float) -> None:
        """Set the limit; WriteRefused if zeusd or the driver refused, or nothing answered."""
        try:
            self.daemon.set_power_limit(self.number, watts)
        except ZeusdError as error:
            late = isinstance(error, ZeusdSilent)
            raise WriteRefused(f"zeusd: {error}", may_follow=late) from error


class ZeusdError(Exception):
    """zeusd cannot be reached, or its answer cannot be used."""


class ZeusdSilent(ZeusdError):
    """No answer came; the request may have been carried out, or may be later."""


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
