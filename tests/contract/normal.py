"""Replace what differs between two runs or two machines by the type it has."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_CHECKOUT = str(Path(__file__).parents[2])
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_RUN_ID = re.compile(r"\d{8}-\d{6}-([\w.-]+)-[0-9a-f]{4}\b")
_ID = re.compile(r"[0-9a-f]{12}")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_MACHINE_NAME = re.compile(r".+, \d+ CPUs, \S+ \S+")

_VERSIONS = {"etui", "python", "llama_cpp_python", "llama_cpp", "build", "version"}
_MACHINE = {"system", "machine"}
_HASHES = {"config_sha256"}
_INTS = {
    *("cpus", "threads", "memory_bytes", "free_memory_bytes", "batch_tokens", "sequences"),
    *("group_questions", "driver_us", "decode_threads", "prefill_threads"),
}
_STEADY_FLOATS = {
    *("temperature", "top_p", "min_p", "sample_hz", "weight", "eps", "threshold", "chance"),
    *("every", "limit_watts", "power_limit_watts", "window_s", "cool_down_s", "boundary"),
    *("accept_at", "prefix", "prefix_tokens"),
}
_OPTIONAL_FLOATS = {"period_seconds", "watts", "peak_watts"}
"""What a busy machine may not have measured."""
_BY_JOULES = {"candidates": "arm", "totals": "key"}
"""Lists that come in the order of measured joules, and the key to sort them by."""
_WHOLE: Mapping[str, str] = {
    # Depends on how even the clock of this machine is.
    "flags": "<flags>",
    "steady": "<bool>",
    "passed": "<bool>",
    "detail": "<text>",
    # Depends on the load of the machine.
    "thread_changes": "<changes>",
    # Depends on the user who runs the tests.
    "setter": "<setter>",
    # Depends on the memory and on the build of llama.cpp.
    "fits": "<bool>",
    "offload": "<offload>",
    # Depends on measured speeds and joules.
    "inside": "<bool>",
    "hull": "<arms>",
    "proportional": "<bool>",
    "inter_token_bins": "<bins>",
    # Which fields were not measured; the tests of the records check them.
    "missing": "<missing>",
    # The numbers of the words that occur, thousands of them.
    "at": "<numbers>",
}


def normalised(document: Any, root: Path, *, floats: bool) -> Any:
    """A JSON document without what differs from run to run.

    Args:
        document: The document, as ``json.loads`` gives it.
        root: Folder of the simulated machine; paths below it begin with ``<root>``, and
            those below the checkout with ``<checkout>``.
        floats: Floating-point numbers are the same everywhere; four digits of them are kept.
    """
    number = _four_digits if floats else _hidden
    return _Normal(root, number, floats).of("", document)


def _four_digits(value: float) -> Any:
    return float(f"{value:.4g}")


def _hidden(value: float) -> Any:
    return "<float>"


class _Normal:
    def __init__(self, root: Path, number: Callable[[float], Any], steady: bool) -> None:
        self._root = str(root)
        self._number = number
        self._steady = steady

    def of(self, key: str, value: Any) -> Any:
        if not self._steady and key in _WHOLE and not isinstance(value, Mapping):
            return _WHOLE[key]
        if isinstance(value, Mapping):
            if key == "offload":
                return {name: _type_name(item) for name, item in value.items()}
            of_machine = key == "machine"
            return {
                self._text("", k): "<machine>" if of_machine and k == "name" else self.of(k, item)
                for k, item in value.items()
            }
        if isinstance(value, list):
            return self._list(key, value)
        if not self._steady and key in _OPTIONAL_FLOATS and (value is None or _is_float(value)):
            return "<float or null>"
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, int):
            return "<int>" if key in _INTS or key.endswith("_ns") else value
        if isinstance(value, float):
            return value if key in _STEADY_FLOATS else self._number(value)
        return self._text(key, value)

    def _list(self, key: str, values: list[Any]) -> list[Any]:
        found: list[Any] = []
        alike = 0
        if key in _BY_JOULES and not self._steady:
            values = sorted(values, key=lambda one: str(one[_BY_JOULES[key]]))
        for value in _own_models(values):
            item = self.of(key, value)
            if found and alike and item == found[-1]:
                alike += 1
                continue
            _close(found, alike, key)
            found.append(item)
            alike = 1
        _close(found, alike, key)
        return found

    def _text(self, key: str, text: str) -> str:
        if key in _VERSIONS or key in _MACHINE:
            return f"<{'version' if key in _VERSIONS else 'machine'}>"
        if key in _HASHES:
            return "<sha256>"
        if (key == "id" or key.endswith("_id")) and _ID.fullmatch(text):
            return "<id>"
        if key == "day" and _DAY.fullmatch(text):
            return "<day>"
        if _MACHINE_NAME.fullmatch(text):
            return "<machine>"
        text = text.replace(self._root, "<root>").replace(_CHECKOUT, "<checkout>")
        text = _RUN_ID.sub(r"<stamp>-\1-<id>", text)
        return _TIME.sub("<time>", text)


def _close(found: list[Any], alike: int, key: str) -> None:
    """Say that the last item is repeated; how often a power curve has points is no matter."""
    if key == "power_watts":
        return
    if alike > 1:
        found.append(f"<{alike - 1} more alike>")


def _own_models(values: list[Any]) -> list[Any]:
    """Without the models that etui ships: what they are is no contract."""
    return (
        [v for v in values if not (isinstance(v, Mapping) and v.get("origin") == "shipped")]
        if (values and isinstance(values[0], Mapping) and "sources" in values[0])
        else values
    )


def _is_float(value: Any) -> bool:
    return isinstance(value, float)


def _type_name(value: Any) -> str:
    return f"<{type(value).__name__}>"
