"""Restore power limits from a journal: at the end of a hold, or at the next start of etui."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from etui.config.config import Config
from etui.energy.power_limits.journal import (
    DamagedJournal,
    Journal,
    JournalBusy,
    JournalEntry,
    is_owner_alive,
    is_same_machine,
    lock_journal,
    read_journal,
    remove_journal,
    write_journal,
)
from etui.energy.power_limits.limits import PowerLimits, open_power_limits
from etui.energy.power_limits.process import PROC, read_boot_id
from etui.energy.power_limits.types import WriteRefused
from etui.energy.power_limits.verify import EXACT_WATTS
from etui.errors import UsageError, format_internal_error
from etui.text import sanitize
from etui.units import limit_text

Decision = Literal["as_found", "restore", "changed"]
Status = Literal["as_found", "restored", "changed", "refused", "missing"]

OpenLimits = Callable[[Config, str], PowerLimits]
"""Opens the limits of this machine; the second argument is the socket of a zeusd."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result for one entry."""

    entry: JournalEntry
    status: Status
    """``as_found``: nothing to do; ``restored``: verified by reading back; ``changed``: somebody
    else has set another value, which is left; ``refused``: it could not be restored; ``missing``:
    the device is not found."""
    now_watts: float | None  # The value at the end; None if it cannot be read
    why: str = ""

    @property
    def is_finished(self) -> bool:
        """Whether the entry can be forgotten."""
        return self.status in ("as_found", "restored", "changed")


def decide(
    entry: JournalEntry,
    now_watts: float | None,
    *,
    rebooted: bool,
    default_watts: float | None = None,
) -> Decision:
    """Decide what to do with a changed value.

    A value that is neither the one found nor the one read back after the last change was set by
    somebody else and is left. While a change was in progress any value may be etui's own (rounded
    by the driver), and so may one that cannot be read.

    Args:
        now_watts: The value now; None if it cannot be read.
        rebooted: Whether the machine was started again since, which sets limits to their defaults.
        default_watts: The value after a reboot; None if unknown.
    """
    if now_watts is None:
        return "restore"
    if abs(now_watts - entry.found_watts) <= EXACT_WATTS:
        return "as_found"
    if rebooted and default_watts is not None and abs(now_watts - default_watts) > EXACT_WATTS:
        return "changed"  # what the sweep had set is gone, and this is not the default
    if rebooted or entry.is_pending:
        return "restore"
    is_own = entry.set_watts is not None and abs(now_watts - entry.set_watts) <= EXACT_WATTS
    return "restore" if is_own else "changed"


def restore_entry(limits: PowerLimits, entry: JournalEntry, *, rebooted: bool = False) -> Outcome:
    """Restore one value and read it back; a fault of one device must not stop the others."""
    try:
        return _restore_entry(limits, entry, rebooted=rebooted)
    except Exception as error:  # noqa: BLE001
        return Outcome(entry, "refused", None, format_internal_error(error))


def _restore_entry(limits: PowerLimits, entry: JournalEntry, *, rebooted: bool) -> Outcome:
    try:
        device = limits.device(entry.scope)
        now = device.read_knobs()[entry.knob]
    except (UsageError, KeyError):
        return Outcome(entry, "missing", None)
    # The device states the default of its main value only.
    is_main = entry.knob == next(iter(device.read_knobs()))
    default = device.read().default_watts if rebooted and is_main else None
    decision = decide(entry, now, rebooted=rebooted, default_watts=default)
    if decision == "changed":
        return Outcome(entry, "changed", now)
    # A request to zeusd that was not answered may still be carried out; one after it undoes that.
    late = entry.is_pending and entry.setter == "zeusd"
    if decision == "as_found" and not late:
        return Outcome(entry, "as_found", now)
    why = ""
    try:
        device.write(entry.knob, entry.found_watts)
    except WriteRefused as refused:
        why = refused.why
    after = device.read_knobs()[entry.knob]
    if after is not None and abs(after - entry.found_watts) <= max(device.unit_watts, EXACT_WATTS):
        return Outcome(entry, "as_found" if decision == "as_found" else "restored", after)
    return Outcome(entry, "refused", after, why or "it was set, but is not read back")


def format_outcomes(outcomes: Sequence[Outcome], reason: str) -> list[str]:
    """Format what was done, one line per device; nothing where all was as found.

    Args:
        outcomes: The results, the main value of a device first.
        reason: Why it had to be done: ``an earlier sweep was killed``.
    """
    by_device: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_device.setdefault(outcome.entry.scope, []).append(outcome)
    lines = []
    for group in by_device.values():
        entry = group[0].entry
        name, found = entry.label, limit_text(entry.found_watts)
        statuses = {outcome.status for outcome in group}
        for outcome in group:
            if outcome.status == "changed":
                part = "" if outcome is group[0] else f" ({outcome.entry.knob})"
                now, before = limit_text(outcome.now_watts), outcome.entry.found_watts
                lines.append(
                    f"left the power limit of {name}{part} at {now}: it is neither the "
                    f"{limit_text(before)} found before the sweep nor what the sweep set, so it "
                    "was changed meanwhile"
                )
        if "missing" in statuses:
            lines.append(
                f"cannot restore the power limit of {name} to {found} ({reason}): the device is "
                "not found now"
            )
        if "refused" in statuses:
            first = next(outcome for outcome in group if outcome.status == "refused")
            lines.append(
                f"cannot restore the power limit of {name} to {found} ({reason}): {first.why}; "
                f"run: {entry.command}"
            )
        elif "restored" in statuses:
            lines.append(f"restored the power limit of {name} to {found} ({reason})")
    return lines


def restore_left_over(
    config: Config,
    *,
    open_limits: OpenLimits | None = None,
    proc: Path = PROC,
) -> tuple[str, ...]:
    """Restore the limits that an earlier etui changed and could not restore (``kill -9``).

    A hold of a process that still runs is left alone, as is a journal of another machine.

    Args:
        config: ``ETUI_HOME`` and the root of sysfs.
        open_limits: Opens the limits; None opens those of this machine.
        proc: Folder with one entry per process.

    Returns:
        What was done or could not be done, one line each; empty if there was nothing to do.
    """
    path = config.power_limits_file
    if not os.path.exists(path):
        return ()
    try:
        with lock_journal(config):
            lines = _restore(config, path, open_limits or _open_limits, proc)
            return tuple(sanitize(line) for line in lines)
    except JournalBusy:
        return ()
    except OSError as error:
        return (f"cannot restore power limits from {path}: {error.strerror or error}",)


def release_own(config: Config, *, open_limits: OpenLimits | None = None) -> tuple[str, ...]:
    """Restore the limits of this process's own hold, where the process must end at once.

    The hold keeps its lock; it writes its journal again if it goes on.
    """
    path = config.power_limits_file
    if not os.path.exists(path):
        return ()
    try:
        journal = read_journal(path)
        if journal.pid != os.getpid() or not is_owner_alive(journal):
            return ()
        return tuple(_restore_entries(config, path, journal, open_limits or _open_limits, False))
    except (OSError, DamagedJournal):
        return ()


def _restore(config: Config, path: Path, open_limits: OpenLimits, proc: Path) -> list[str]:
    if not path.exists():
        return []  # another start has restored it meanwhile
    try:
        journal = read_journal(path)
    except DamagedJournal as error:
        aside = path.with_suffix(".damaged.json")
        os.replace(path, aside)
        return [
            f"{path} is damaged ({' '.join(str(error).split())[:120]}) and was moved to "
            f"{aside.name}: check the power limits with `etui doctor`"
        ]
    if not is_same_machine(journal, proc):
        return [
            f"power limits of another machine ({journal.machine}) may not be restored yet: start "
            f"etui there, or delete {path}"
        ]
    if is_owner_alive(journal, proc):
        return []
    rebooted = journal.boot_id != read_boot_id(proc)
    return _restore_entries(config, path, journal, open_limits, rebooted)


def _restore_entries(
    config: Config, path: Path, journal: Journal, open_limits: OpenLimits, rebooted: bool
) -> list[str]:
    with open_limits(config, journal.zeusd_socket) as limits:
        outcomes = [restore_entry(limits, entry, rebooted=rebooted) for entry in journal.limits]
        problems = limits.problems
    reason = "an earlier sweep was killed"
    if rebooted:
        reason = "the machine was restarted during an earlier sweep"
    lines = format_outcomes(outcomes, reason)
    left = {outcome.entry.scope for outcome in outcomes if not outcome.is_finished}
    if left:
        if any(outcome.status == "missing" for outcome in outcomes):
            lines.append(f"if a device is gone for good, delete {path}")
        lines += problems
        kept = tuple(entry for entry in journal.limits if entry.scope in left)
        write_journal(path, replace(journal, limits=kept))
    else:
        remove_journal(path)
        if rebooted and not lines:
            lines = [f"the power limits are as before an earlier sweep ({reason})"]
    return lines


def _open_limits(config: Config, zeusd_socket: str) -> PowerLimits:
    return open_power_limits(config, zeusd_socket=zeusd_socket)
