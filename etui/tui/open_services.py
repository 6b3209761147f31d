"""Open the services of the app: log, meter, model catalogue, engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from etui.config.config import Config
from etui.energy.devices import DeviceReader
from etui.energy.recorder import Recorder
from etui.energy.types import ChannelPower, Energy
from etui.errors import LogUnavailable
from etui.log.chat_queries import ChatSummary, list_chat_turns, list_chats
from etui.log.queries import LogReader
from etui.log.records import ChatRecord
from etui.log.writer import TurnWriter
from etui.models.download import Progress, Report
from etui.runtime.routes import Route
from etui.runtime.service import TurnService
from etui.tui.services import BudgetState, ListedModel, Services, SpendingTotals, Vitals
from etui.turn.record import TurnRecord

if TYPE_CHECKING:
    from pathlib import Path

    from etui.curves.prediction import DecodeForecast, MachineFacts
    from etui.models.files import Verified
    from etui.models.found import FoundModel
    from etui.models.gguf import Gguf
    from etui.runtime.search_models import SearchResult


class LiveMeter:
    """What screens read from a recorder."""

    def __init__(self, recorder: Recorder, config: Config) -> None:
        import psutil

        self._recorder = recorder
        self._devices = DeviceReader(recorder, config.sysfs_dir, time.monotonic_ns)
        self._process = psutil.Process()
        self._has_vitals = False

    def latest(self) -> Sequence[ChannelPower]:
        return self._recorder.latest()

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        return self._recorder.energy(start_ns, end_ns)

    def vitals(self) -> Vitals:
        """Return idle watts, devices and own CPU time; expensive, so call it once a second."""
        percent = self._process.cpu_percent()
        share = percent / 100 if self._has_vitals else None
        self._has_vitals = True
        return Vitals(self._recorder.idle_by_channel, share, self._devices.read())


class InstalledModels:
    """The models of models.yaml and of the folder."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def models(self) -> Sequence[ListedModel]:
        """List every model, read from disk each time: another etui may have pulled one."""
        from etui.models.catalogue import load_catalogue
        from etui.runtime.model_resolution import models_on_disk

        catalogue = load_catalogue(self._config)
        is_on_disk = models_on_disk(self._config, catalogue)
        return [
            ListedModel(spec.name, spec.size, is_on_disk(spec.name), spec.context)
            for spec in catalogue
        ]

    def pull(self, name: str, report: Report, forecast: DecodeForecast) -> str:
        """Download and verify a model; return its entry. An exception in ``report`` stops it."""
        from etui.runtime.user_models import open_user_models

        models = open_user_models(self._config)
        new = models.find(name)
        models.add(new, report, forecast)
        return new.spec.name

    def found(self, read: Callable[[Path], Gguf]) -> Sequence[FoundModel]:
        """Find the models of other programs; ``read`` reads a header, from a cache."""
        from etui.runtime.user_models import open_stores

        return open_stores().find(read)

    def search(self, words: str, limit: int, machine: MachineFacts) -> SearchResult:
        """Search the hub and price what it has; takes seconds, a fault is part of the result."""
        from etui.runtime.search_models import search_models

        return search_models(self._config, words, limit, machine)

    def measure_memory(self, threads: int, is_busy: Callable[[], bool]) -> None:
        """Measure the speed of the memory unless it is known, or an answer runs; takes a second."""
        from etui.runtime.measure_memory import find_memory_speed

        find_memory_speed(self._config, threads, is_busy)

    def verify(self, name: str, report: Report) -> Verified:
        """Hash the whole file of a model, even if it was verified before."""
        from etui.models.catalogue import load_catalogue
        from etui.models.files import model_path, verify

        spec = load_catalogue(self._config).get(name)
        path = model_path(spec, self._config)
        size = path.stat().st_size if path.is_file() else None

        def report_hashed(done: int) -> None:
            report(Progress(name, "verify", str(path), done, size))

        return verify(spec, self._config, report_hashed)


_MAX_CHATS = 500


class LoggedChats:
    """The chats in the SQLite log; every call may wait for the disk, and raise ``EtuiError``."""

    def __init__(self, config: Config, reader: LogReader, writer: TurnWriter) -> None:
        self._config = config
        self._reader = reader
        self._writer = writer

    def chats(self, search: str) -> Sequence[ChatSummary]:
        return list_chats(self._reader, search, limit=_MAX_CHATS)

    def turns(self, chat_id: str) -> Sequence[TurnRecord]:
        return list_chat_turns(self._reader, chat_id)

    def save(self, chat: ChatRecord) -> None:
        self._writer.save_chat(chat)
        self._writer.flush()

    def delete(self, chat_id: str) -> None:
        from etui.runtime.delete_chat import delete_chat

        delete_chat(chat_id, self._config, self._reader, self._writer)

    def grade(self, turn_id: str, good: bool | None) -> None:
        """Store what the user says of an answer; None removes it."""
        from etui.log.records import GradeRecord
        from etui.text import format_utc

        if good is None:
            self._writer.clear_grade(turn_id)
        else:
            now = format_utc(datetime.now().astimezone())
            self._writer.save_grade(GradeRecord(turn_id, now, good))
        self._writer.flush()

    def grades(self, turn_ids: Sequence[str]) -> Mapping[str, bool]:
        from etui.log.labels import read_grades

        return read_grades(self._reader, turn_ids)

    def spending(self, route: Route) -> SpendingTotals:
        from etui.log.daily_energy import period_start, read_daily_energy

        now = datetime.now().astimezone()
        today = now.date()
        daily = read_daily_energy(self._reader, period_start(today, "week"), today)
        budgets = () if route.model is not None else self._budgets(route, now)
        return SpendingTotals(daily, today, budgets)

    def _budgets(self, route: Route, now: datetime) -> tuple[BudgetState, ...]:
        from etui.log.totals import sum_joules_since
        from etui.models.catalogue import load_catalogue
        from etui.routing.library import load_policy
        from etui.runtime.decide import compute_period_start

        policy = load_policy(route.policy, self._config, load_catalogue(self._config).models)
        states: list[BudgetState] = []
        if policy.budget is not None and policy.budget.joules is not None:
            states.append(BudgetState("turn", policy.budget.joules, None))
        for budget in policy.period_budgets:
            spent = sum_joules_since(self._reader, compute_period_start(budget, now))
            joules = None if spent.unmeasured_turns and not spent.joules else spent.joules
            states.append(BudgetState(budget.period, budget.joules, joules, spent.estimated))
        return tuple(states)


def open_services(config: Config) -> Services:
    """Open everything behind the screens; the engine's process starts with its first model."""
    from etui.energy.idle import IdleTracker
    from etui.engine.library import choose_threads, usable_cpus
    from etui.log.queries import LogReader
    from etui.routing.library import policy_names
    from etui.runtime.routes import list_route_choices, restore_route
    from etui.runtime.runtime import open_process_runtime

    runtime = open_process_runtime(config)
    try:
        runtime.writer.ready()
        runtime.recorder.start()
    except BaseException:
        with suppress(LogUnavailable):
            runtime.close()
        raise
    service = TurnService(runtime, IdleTracker(runtime.recorder, config))
    return Services(
        service,
        LiveMeter(runtime.recorder, config),
        InstalledModels(config),
        LoggedChats(config, LogReader(config), runtime.writer),
        partial(policy_names, config),
        choose_threads(config.threads, config.sysfs_dir),
        usable_cpus(),
        partial(list_route_choices, config),
        lambda route: restore_route(route, config),
        runtime.writer.report_to,
    )
