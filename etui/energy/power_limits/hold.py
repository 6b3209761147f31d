"""A hold on power limits: within it they may be changed, after it they are as found."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import FrameType, TracebackType
from typing import Self

from etui.config.config import Config, make_home
from etui.energy.power_limits.journal import (
    JournalBusy,
    JournalEntry,
    lock_journal,
    new_journal,
    remove_journal,
    write_journal,
)
from etui.energy.power_limits.limits import MOST_REQUESTS, Ask, PowerLimits
from etui.energy.power_limits.restore import Outcome, format_outcomes, restore_entry
from etui.energy.power_limits.types import AppliedLimit, CapRequest, LimitDevice
from etui.energy.power_limits.verify import EXACT_WATTS
from etui.errors import EtuiError
from etui.units import limit_text

_ENDING = ("SIGTERM", "SIGHUP")

_INTERRUPTING = ("SIGINT", *_ENDING)


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


class LimitHold:
    """Context manager within which power limits may be changed.

    Before the first change of a value, the value found is written to the journal
    (``ETUI_HOME/power_limits.json``). At the end (normal exit, error, Ctrl-C, SIGTERM, SIGHUP)
    every value is restored and read back, and only then is the journal removed. After ``kill -9``
    the next start of etui does that (:func:`etui.energy.power_limits.restore.restore_left_over`).

    SIGTERM and SIGHUP end a Python program without a word unless it handles them; where it does
    not, the hold turns them into SystemExit. In another thread than the main one it cannot.

    Args:
        config: ``ETUI_HOME``.
        limits: The open limits of this machine.
        ask: Asks the user to set a limit (``--cap user``); None sets it directly.
        say: Takes what was restored, or could not be, one line each.
    """

    def __init__(
        self,
        config: Config,
        limits: PowerLimits,
        *,
        ask: Ask | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._config = config
        self._path = config.power_limits_file
        self._limits = limits
        self._ask = ask
        self._say = say
        self._entries: dict[tuple[str, str], JournalEntry] = {}
        self._lock = threading.RLock()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Take the lock of the journal.

        Raises:
            EtuiError: Another etui holds limits, or those of an earlier sweep are not restored.
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
            stack.enter_context(self._limits.recorded_by(self))
            stack.enter_context(end_on_signals())
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore everything; the user is asked only after a normal end."""
        with self._stack:
            self.restore(may_ask=kind is None)

    def apply(self, scope: str, watts: float) -> AppliedLimit:
        """Set a limit and read it back, as :meth:`PowerLimits.apply` does.

        Raises:
            UsageError: There is no such device, or the limit is outside of its range.
            EtuiError: The journal cannot be written; nothing was touched.
        """
        return self._limits.apply(scope, watts, self._ask)

    def apply_each(self, scopes: tuple[str, ...], watts: float) -> tuple[AppliedLimit, ...]:
        """Set the same limit on several devices (packages of one machine).

        All ranges are checked before the first device is touched.

        Raises:
            UsageError: As in :meth:`apply`.
            EtuiError: As in :meth:`apply`.
        """
        for scope in scopes:
            self._limits.check(scope, watts)
        return tuple(self.apply(scope, watts) for scope in scopes)

    def restore(self, *, may_ask: bool = False) -> tuple[str, ...]:
        """Restore every changed value, and remove the journal when all are read back.

        Args:
            may_ask: Whether the user may be asked to set what etui cannot.

        Returns:
            The lines that ``say`` was given.
        """
        with self._lock:
            if not self._entries:
                return ()
            outcomes: list[Outcome] = []
            interrupted: BaseException | None = None
            try:
                with defer_signals():
                    outcomes = self._restore_all()
                    self._forget_finished(outcomes)
            except BaseException as error:
                if not outcomes:
                    raise
                interrupted = error  # a signal that came meanwhile: what was done is said first
            if interrupted is None and may_ask and self._ask is not None and self._entries:
                try:
                    self._ask_to_restore(self._ask)
                except BaseException as error:  # noqa: BLE001 - what is left is said first
                    interrupted = error
                outcomes = [
                    self._reread(outcome) if outcome.status == "refused" else outcome
                    for outcome in outcomes
                ]
                self._forget_finished(outcomes)
            lines = format_outcomes(outcomes, "the sweep has ended")
            if self._entries:
                lines.append(f"the next start of etui tries again ({self._path})")
        for line in lines:
            self._say(line)
        if interrupted is not None and not isinstance(interrupted, EtuiError):
            raise interrupted
        return tuple(lines)

    def plan(self, device: LimitDevice, watts: float) -> Mapping[str, float]:
        """Return knob -> watts; for the main value found at first, all values found at first."""
        knobs = device.read_knobs()
        found: dict[str, float | None] = {}
        for knob, now in knobs.items():
            entry = self._entries.get((device.scope, knob))
            found[knob] = now if entry is None else entry.found_watts
        known = {knob: value for knob, value in found.items() if value is not None}
        main = next(iter(found.values()))
        if main is not None and abs(main - watts) <= EXACT_WATTS and len(known) == len(found):
            return known
        return device.plan(watts)

    def begin(self, device: LimitDevice, changes: Mapping[str, float]) -> None:
        """Write to the journal that values are about to change.

        Raises:
            EtuiError: A value cannot be read, or the journal cannot be written.
        """
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
            self._write(_with_commands(device, entries))

    def settle(self, device: LimitDevice) -> None:
        """Write the values read back to the journal.

        Raises:
            EtuiError: The journal cannot be written; what it says still restores the limits.
        """
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
        try:
            write_journal(self._path, journal)
        except OSError as error:
            raise EtuiError(
                f"cannot write {self._path}: {error.strerror or error}",
                "power limits can only be changed where etui can note how to restore them",
            ) from error
        self._entries = entries

    def _restore_all(self) -> list[Outcome]:
        return [restore_entry(self._limits, entry) for entry in self._entries.values()]

    def _reread(self, outcome: Outcome) -> Outcome:
        """Judge a value again after the user was asked to restore it."""
        entry = outcome.entry
        now = self._limits.device(entry.scope).read_knobs().get(entry.knob)
        if now is not None and abs(now - entry.found_watts) <= EXACT_WATTS:
            return Outcome(entry, "restored", now)
        return outcome

    def _ask_to_restore(self, ask: Ask) -> None:
        for scope in dict.fromkeys(scope for scope, _ in self._entries):
            group = [entry for entry in self._entries.values() if entry.scope == scope]
            device, main = self._limits.device(scope), group[0]
            problem = ""
            for _ in range(MOST_REQUESTS):
                knobs = device.read_knobs()
                if all(knobs.get(entry.knob) == entry.found_watts for entry in group):
                    break
                now = knobs.get(main.knob)
                ask(CapRequest(scope, main.label, main.found_watts, now, main.command, problem))
                problem = f"the limit of {main.label} is not {limit_text(main.found_watts)} yet"

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


def _with_commands(
    device: LimitDevice, entries: dict[tuple[str, str], JournalEntry]
) -> dict[tuple[str, str], JournalEntry]:
    """Give the entries of a device the command that restores all of its values."""
    found = {
        entry.knob: entry.found_watts for entry in entries.values() if entry.scope == device.scope
    }
    command = device.format_command(found)
    return {
        key: replace(entry, command=command) if entry.scope == device.scope else entry
        for key, entry in entries.items()
    }
