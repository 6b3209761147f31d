"""A rig, an audience and a workbench that need no machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from etui.log.records import Row
from etui.log.writer import TurnWriter
from etui.measure.progress import Progress
from etui.sweep.blocks import PhaseCost, SettingAnswer, Visit, VisitPower
from etui.sweep.config import Setting, SweepConfig
from etui.sweep.plan import SweepPlan
from etui.sweep.workbench import LocalWorkbench
from tests.turn.scripted import Meter10W


@dataclass(slots=True)
class FakeRig:
    """Settings with known joules, and a noise of half a percent that repeats itself.

    Attributes:
        joules: Key of a setting -> joules of one answer.
        before: Called before a visit with its number, from 1; may raise an error.
        change: Changes a visit, by its number.
        measure_answers: Answers the questions that are not answered yet.
    """

    joules: Mapping[str, float]
    before: Callable[[int], object] = lambda number: None
    change: Callable[[int, Visit], Visit] = lambda number, visit: visit
    measure_answers: Callable[..., Iterator[SettingAnswer]] = lambda settings, done: iter(())
    visits: int = 0

    def visit(self, setting: Setting, copy: int) -> Visit:
        self.visits += 1
        self.before(self.visits)
        joules = self.joules[setting.key] * (1 + 0.005 * (-2, 1, 0, 2, -1)[self.visits % 5] / 2)
        start = self.visits * 5_000_000_000
        visit = Visit(
            setting=setting.key,
            copy=copy,
            answers=2,
            prefill=PhaseCost(20, joules / 4, joules / 400, 0.5),
            decode=PhaseCost(32, joules * 3 / 4, joules / 300, 0.05 * joules),
            start_ns=start,
            end_ns=start + 4_000_000_000,
            kind="counter",
            mean_watts=joules / 2,
        )
        return self.change(self.visits, visit)

    def read_power(self, block: int, visit: Visit) -> VisitPower:
        watts = (visit.mean_watts, None)
        return VisitPower(block, visit.setting, visit.copy, visit.start_ns, visit.end_ns, watts)


@dataclass(slots=True)
class Log:
    """Keeps the last rows."""

    sweep: Row | None = None
    settings: list[Row] = field(default_factory=list)

    def save_rows(self, table: str, rows: Sequence[Row]) -> None:
        if table == "sweeps":
            (self.sweep,) = rows
        else:
            self.settings = list(rows)


@dataclass(slots=True)
class Audience:
    """Keeps the progress that it is shown."""

    seen: list[Progress] = field(default_factory=list)

    def __call__(self, progress: Progress) -> None:
        self.seen.append(progress)

    def of(self, event: str) -> list[Any]:
        """The texts of notes, else the fields of an event."""
        found = [one for one in self.seen if one.event == event and one.fields]
        return [one.text if event == "note" else one.fields for one in found]


def make_answer(setting: Setting, number: int, *, correct: bool) -> SettingAnswer:
    return SettingAnswer(setting.key, number, "logic", number, "A", correct)


@dataclass(slots=True)
class FakeWorkbench:
    """A machine whose settings cost what ``price`` says.

    Attributes:
        price: Joules of a setting.
        channels: Power channels.
        window_s: What the meter resolves.
        busy: Returns whether the machine is at work, or raises an error.
        before, change: As in :class:`FakeRig`.
        opened: How often it was opened to measure.
    """

    price: Callable[[Setting], float]
    channels: tuple[str, ...] = ("gpu:1",)
    window_s: float = 2.0
    busy: Callable[[], bool | None] = lambda: False
    before: Callable[[int], object] = lambda number: None
    change: Callable[[int, Visit], Visit] = lambda number, visit: visit
    opened: int = 0
    log: TurnWriter | None = None

    def note_open(self, config: SweepConfig, items: Iterator[Any]) -> Iterator[Any]:
        if self.log is None:
            return items
        bench: Any = SimpleNamespace(recorder=Meter10W(), writer=self.log)
        return LocalWorkbench.note_open(bench, config, items)

    def check_idle(self) -> bool:
        return bool(self.busy())

    @contextmanager
    def open_measurer(self, plan: SweepPlan, config: SweepConfig, place: Path) -> Iterator[FakeRig]:
        self.opened += 1
        settings = config.design.settings
        joules = {setting.key: self.price(setting) for setting in settings}
        count = 0 if plan.questions is None else plan.questions.count

        def answer(
            asked: Sequence[Setting], done: Sequence[SettingAnswer]
        ) -> Iterator[SettingAnswer]:
            there = {(line.setting, line.number) for line in done}
            for setting in asked:
                for number in range(count):
                    if (setting.key, number) not in there:
                        yield make_answer(setting, number, correct=number % 3 != 0)

        yield FakeRig(joules, self.before, self.change, answer)


def raise_at(visit: int, error: BaseException | type[BaseException]) -> Callable[[int], None]:
    """Make what a rig calls before each visit: it raises an error before one of them."""

    def check(number: int) -> None:
        if number == visit:
            raise error

    return check
