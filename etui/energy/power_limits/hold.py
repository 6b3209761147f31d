"""A hold on power limits: within it they may be changed, after it they are as found.

What a killed etui could not restore, its guard or the next start restores from the journal.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Literal, Self

from etui.config.config import Config, make_home
from etui.energy.power_limits.journal import (
    DamagedJournal,
    Journal,
    JournalBusy,
    JournalEntry,
    guard,
    lock_journal,
    new_journal,
    read_journal,
    remove_journal,
    write_journal,
)
from etui.energy.power_limits.limit import (
    EXACT_WATTS,
    AppliedLimit,
    Ask,
    CapRequest,
    LimitDevice,
    WriteRefused,
    judge_applied,
)
from etui.energy.power_limits.limits import PowerLimits, open_power_limits
from etui.errors import EtuiError, UsageError, format_internal_error, writing
from etui.owner import PROC, read_boot_id
from etui.text import sanitize
from etui.units import limit_text

Decision = Literal["as_found", "restore", "changed"]
Status = Literal["as_found", "restored", "changed", "refused", "missing"]
OpenLimits = Callable[[Config, str], PowerLimits]
"""Opens the limits of this machine; the second argument is the socket of a zeusd."""
MOST_REQUESTS = 3
"""How often the user is asked for one limit before it counts as refused."""
_ENDING = ("SIGTERM", "SIGHUP", "SIGBREAK")  # Windows has the last one instead of SIGHUP
_INTERRUPTING = ("SIGINT", *_ENDING)


class LimitHold:
    """Context manager within which power limits may be changed.

    Before the first change of a value, the value found is written to the journal
    (``ETUI_HOME/power_limits.json``). At the end (normal exit, error, Ctrl-C, SIGTERM, SIGHUP)
    every value is restored and read back, and only then is the journal removed. After ``kill -9``
    a guard does that, or else the next start of etui (:func:`restore_left_over`).

    SIGTERM and SIGHUP end a Python program without a word unless it handles them; where it does
    not, the hold turns them into SystemExit. In another thread than the main one it cannot.

    Args:
        ask: Asks the user to set a limit (``--cap user``); None sets it directly.
        say: Takes what was restored, or could not be, one line each.
        guarded: Whether a process restores them at once if this one is killed.
    """

    def __init__(
        self,
        config: Config,
        limits: PowerLimits,
        *,
        ask: Ask | None = None,
        say: Callable[[str], None] = lambda line: None,
        guarded: bool = False,
    ) -> None:
        self._config = config
        self._guarded = guarded
        self._path = config.power_limits_file
        self._limits = limits
        self._ask = ask
        self._say = say
        self._entries: dict[tuple[str, str], JournalEntry] = {}
        self._lock = threading.RLock()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Take the lock of the journal.

        EtuiError if another etui holds limits, or those of an earlier sweep are not restored.
        """
        make_home(self._config)
        with ExitStack() as stack:
            try:
                stack.enter_context(lock_journal(self._config))
            except JournalBusy as busy:
                raise EtuiError(
                    "another etui on this machine changes power limits now",
                    "wait until its sweep has ended",
                ) from busy
            except OSError as error:
                raise EtuiError(
                    f"cannot lock {self._path}: {error.strerror or error}",
                    "power limits can only be changed where etui can note how to restore them",
                ) from error
            if self._path.exists():
                raise EtuiError(
                    f"the power limits of an earlier sweep are not restored yet ({self._path})",
                    "start etui again and follow its message, or delete the file if the limits in "
                    "`etui doctor` are as you want them",
                )
            stack.enter_context(end_on_signals())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Restore everything; the user is asked only after a normal end."""
        with self._stack:
            self.restore(may_ask=kind is None)

    def apply(self, scope: str, watts: float) -> AppliedLimit:
        """Set a limit, and read it back.

        The limit found at the beginning of the hold brings back all that was found, RAPL's
        ``short_term`` included. UsageError if there is no such device, or the limit is outside of
        its range; EtuiError if the journal cannot be written. After either, nothing was touched.
        """
        self._limits.check(scope, watts)
        device, before = self._limits.device(scope), self._limits.read_one(scope)
        if self._ask is None and before.setter == "user":
            command = device.format_command(dict.fromkeys(device.read_knobs(), watts))
            failure = f"refused: permission denied; as a user: {command}"
            return judge_applied(watts, before, before, device.unit_watts, failure=failure)
        changes = self._plan(device, watts)
        self._begin(device, changes)
        failure, may_follow = "", False
        if self._ask is not None:
            most = max(device.unit_watts, EXACT_WATTS)
            problem = _ask_user(self._ask, device, watts, changes, most)
            failure = f"not set by the user: {problem}" if problem else ""
        else:
            try:
                for knob, value in changes.items():
                    device.write(knob, value)
            except WriteRefused as refused:
                failure, may_follow = f"refused: {refused}", refused.may_follow
        after = self._limits.read_one(scope)
        if not may_follow:
            self._settle(device)
        cause = device.explain_lower()
        return judge_applied(
            watts, before, after, device.unit_watts, failure=failure, lower_because=cause
        )

    def apply_each(self, scopes: tuple[str, ...], watts: float) -> tuple[AppliedLimit, ...]:
        """Set the same limit on several devices; all ranges are checked before one is touched."""
        for scope in scopes:
            self._limits.check(scope, watts)
        return tuple(self.apply(scope, watts) for scope in scopes)

    def restore(self, *, may_ask: bool = False) -> tuple[str, ...]:
        """Restore every changed value, and remove the journal when all are read back.

        The user is asked for what etui cannot set only if ``may_ask``. Returns the lines that
        ``say`` was given.
        """
        with self._lock:
            if not self._entries:
                return ()
            outcomes: list[Outcome] = []
            interrupted: BaseException | None = None
            try:
                with defer_signals():
                    outcomes = [restore_entry(self._limits, e) for e in self._entries.values()]
                    self._forget_finished(outcomes)
                if may_ask and self._ask is not None and self._entries:
                    self._ask_to_restore(self._ask)
            except BaseException as error:
                if not outcomes:
                    raise
                interrupted = error  # a signal that came meanwhile: what was done is reported first
            if may_ask and self._ask is not None and self._entries:
                outcomes = [self._reread(outcome) for outcome in outcomes]
                self._forget_finished(outcomes)
            lines = format_outcomes(outcomes, "the sweep has ended")
            if self._entries:
                lines.append(f"the next start of etui tries again ({self._path})")
        for line in lines:
            self._say(line)
        if interrupted is not None and not isinstance(interrupted, EtuiError):
            raise interrupted
        return tuple(lines)

    def _plan(self, device: LimitDevice, watts: float) -> Mapping[str, float]:
        """Return knob -> watts; for the main value found at first, all values found at first."""
        found = {
            knob: now if entry is None else entry.found_watts
            for knob, now in device.read_knobs().items()
            for entry in [self._entries.get((device.scope, knob))]
        }
        known = {knob: value for knob, value in found.items() if value is not None}
        main = next(iter(found.values()))
        if main is not None and abs(main - watts) <= EXACT_WATTS and len(known) == len(found):
            return known
        return dict.fromkeys(found, watts)

    def _begin(self, device: LimitDevice, changes: Mapping[str, float]) -> None:
        """Write to the journal that values are about to change; EtuiError if that fails."""
        with self._lock:
            now = device.read_knobs()
            entries = dict(self._entries)
            for knob in changes:
                known = entries.get((device.scope, knob))
                value = now.get(knob) if known is None else known.found_watts
                if not value:
                    raise EtuiError(
                        f"the power limit of {device.label} cannot be read ({knob}), so it could "
                        "not be restored",
                        "check the device with `etui doctor`",
                    )
                entries[device.scope, knob] = JournalEntry(
                    scope=device.scope,
                    label=device.label,
                    knob=knob,
                    found_watts=value,
                    set_watts=None if known is None else known.set_watts,
                    is_pending=True,
                    setter=device.read().setter,
                    command="",
                )
            found = {e.knob: e.found_watts for e in entries.values() if e.scope == device.scope}
            command = device.format_command(found)  # restores all of its values
            self._write(
                {
                    key: replace(entry, command=command) if key[0] == device.scope else entry
                    for key, entry in entries.items()
                }
            )

    def _settle(self, device: LimitDevice) -> None:
        """Write the values read back to the journal; what it says before restores them too."""
        with self._lock:
            now = device.read_knobs()
            entries = {
                key: replace(entry, set_watts=now.get(entry.knob), is_pending=False)
                if key[0] == device.scope and now.get(entry.knob) is not None
                else entry
                for key, entry in self._entries.items()
            }
            self._write(entries)

    def _write(self, entries: dict[tuple[str, str], JournalEntry]) -> None:
        journal = new_journal(tuple(entries.values()), self._limits.zeusd_socket)
        if self._guarded:
            self._guarded = False
            try:
                self._stack.enter_context(guard(self._config))
            except OSError as error:
                self._say(
                    f"only the next start of etui would restore them if it is killed: {error}"
                )
        with writing(
            self._path, "power limits can only be changed where etui can note how to restore them"
        ):
            write_journal(self._path, journal)
        self._entries = entries

    def _reread(self, outcome: Outcome) -> Outcome:
        """Judge a value again after the user was asked to restore it."""
        entry = outcome.entry
        if outcome.status != "refused":
            return outcome
        now = self._limits.device(entry.scope).read_knobs().get(entry.knob)
        if now is not None and abs(now - entry.found_watts) <= EXACT_WATTS:
            return Outcome(entry, "restored", now)
        return outcome

    def _ask_to_restore(self, ask: Ask) -> None:
        for scope in dict.fromkeys(scope for scope, _ in self._entries):
            group = [entry for entry in self._entries.values() if entry.scope == scope]
            found = {entry.knob: entry.found_watts for entry in group}
            _ask_user(ask, self._limits.device(scope), group[0].found_watts, found, 0.0)

    def _forget_finished(self, outcomes: list[Outcome]) -> None:
        """Remove devices that are as found from the journal, and the journal with the last one."""
        left = {outcome.entry.scope for outcome in outcomes if not outcome.is_finished}
        entries = {key: entry for key, entry in self._entries.items() if key[0] in left}
        try:
            if entries:
                self._write(entries)
            else:
                remove_journal(self._path)
                self._entries = {}
        except (EtuiError, OSError) as error:
            self._say(f"cannot remove {self._path}: {error}")


def _ask_user(
    ask: Ask, device: LimitDevice, watts: float, changes: Mapping[str, float], most: float
) -> str:
    """Ask until all values are set, up to ``most`` watts off; return which one is not."""
    problem = ""
    for _ in range(MOST_REQUESTS):
        if not _find_difference(device, changes, most):
            return ""
        now, command = device.read().watts, device.format_command(changes)
        ask(CapRequest(device.scope, device.label, watts, now, command, problem))
        problem = _find_difference(device, changes, most)
    return problem


def _find_difference(device: LimitDevice, changes: Mapping[str, float], most: float) -> str:
    knobs = device.read_knobs()
    for knob, watts in changes.items():
        now = knobs.get(knob)
        if now is None or abs(now - watts) > most:
            part = f" ({knob})" if len(changes) > 1 else ""
            return (
                f"the limit of {device.label}{part} is {limit_text(now)}, not {limit_text(watts)}"
            )
    return ""


@contextmanager
def end_on_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit where they would end the process at once."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if not _is_main_thread():
        yield
        return
    numbers = [n for n in _find_signals(_ENDING) if signal.getsignal(n) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Let no signal interrupt the body; the first one that came is delivered after it."""
    came: list[int] = []
    if not _is_main_thread():
        yield
        return
    before = {
        number: handler
        for number in _find_signals(_INTERRUPTING)
        if (handler := signal.getsignal(number)) is not None
    }
    for number in before:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _find_signals(names: tuple[str, ...]) -> list[signal.Signals]:
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


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
    by the driver), and so may one that cannot be read (None). A machine that was ``rebooted`` since
    has set limits to their defaults, if these are known.
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
        why = str(refused)
    after = device.read_knobs()[entry.knob]
    if after is not None and abs(after - entry.found_watts) <= max(device.unit_watts, EXACT_WATTS):
        return Outcome(entry, "as_found" if decision == "as_found" else "restored", after)
    return Outcome(entry, "refused", after, why or "it was set, but is not read back")


def format_outcomes(outcomes: Sequence[Outcome], reason: str) -> list[str]:
    """Format what was done, one line per device; nothing where all was as found.

    The main value of a device comes first; ``reason`` says why it had to be done.
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

    A hold of a process that still runs is left alone, as is a journal of another machine. Returns
    what was done or could not be done, one line each.
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
        if journal.pid != os.getpid() or not journal.is_alive():
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
    if not journal.is_here(proc):
        return [
            f"power limits of another machine ({journal.machine}) may not be restored yet: start "
            f"etui there, or delete {path}"
        ]
    if journal.is_alive(proc):
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
