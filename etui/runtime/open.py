"""Open etui on this machine: the one place where its parts are put together.

Every front end (``ask``, ``bench``, the app, the policy commands) starts from a :class:`Runtime`.
A part opens when it is first used, so that explaining a decision needs neither a power meter nor an
engine, and a fault in the policy is reported before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from etui.backends.base import ModelHost
from etui.chat import Query
from etui.config.config import Config
from etui.errors import LogUnavailable
from etui.models.catalogue import Catalogue, load_catalogue
from etui.runtime.serving import find_model_file, models_on_disk, token_cost_for
from etui.turn.ports import Served

if TYPE_CHECKING:
    from etui.arm import Arm
    from etui.backends.local import LocalBackend
    from etui.backends.process import ProcessBackend
    from etui.energy.recorder import Recorder
    from etui.log.writer import TurnWriter
    from etui.routing.decision import Decision
    from etui.routing.policy import Policy
    from etui.routing.signals.host_state import HostState
    from etui.routing.signals.similarity import EarlierQuestions
    from etui.runtime.log_predictor import LogPredictor
    from etui.turn.events import TurnEvent
    from etui.turn.ports import Writer

B = TypeVar("B", bound=ModelHost)


@dataclass(frozen=True, slots=True)
class PolicyKnowledge:
    """What this machine knows beyond the query when a policy decides.

    Attributes:
        predictor: Expected joules of the arms from the log, and their accuracy from the fit.
        earlier: The questions that ``nearest`` signals compare with; None where the policy has no
            such signal, or the log cannot be read.
    """

    predictor: LogPredictor
    earlier: EarlierQuestions | None


@dataclass(frozen=True, slots=True)
class Choice:
    """A decision and the predictor that its turn goes by.

    Attributes:
        decision: The arm, or the cascade.
        predictor: Expected joules and accuracy of the policy's arms; None where no policy decided.
    """

    decision: Decision
    predictor: LogPredictor | None = None


class Runtime(Generic[B]):
    """Own the parts of etui that are open on this machine, and close them.

    Args:
        config: Folders and settings.
        open_backend: Makes what answers, when it is first needed.
        open_recorder: Makes the power meter, when it is first needed.
        open_writer: Makes the writer of the log.

    Attributes:
        catalogue: The models, as models.yaml had them when the runtime was opened or
            :meth:`reload_catalogue` was last called.
    """

    def __init__(
        self,
        config: Config,
        open_backend: Callable[[Config], B],
        open_recorder: Callable[[Config], Recorder] | None = None,
        open_writer: Callable[[Config], TurnWriter] | None = None,
    ) -> None:
        self.config = config
        self._open_backend = open_backend
        self._open_recorder = open_recorder
        self._open_writer = open_writer
        self.catalogue: Catalogue = load_catalogue(config)

    @cached_property
    def recorder(self) -> Recorder:
        """The power meter, opened at its first use and not started."""
        if self._open_recorder is not None:
            return self._open_recorder(self.config)
        from etui.energy.discovery import open_recorder

        return open_recorder(self.config)

    @property
    def meter(self) -> Recorder:
        """The power meter, recording."""
        self.recorder.start()
        return self.recorder

    @cached_property
    def backend(self) -> B:
        """What answers, made at its first use; it has loaded no model by then."""
        return self._open_backend(self.config)

    @cached_property
    def writer(self) -> TurnWriter:
        """The writer of the log, opened at its first use."""
        if self._open_writer is not None:
            return self._open_writer(self.config)
        from etui.log.writer import TurnWriter

        return TurnWriter(self.config)

    @cached_property
    def provenance(self) -> Mapping[str, Any]:
        """Versions, machine and settings of llama.cpp, which every turn is logged with."""
        from etui.runtime.provenance import provenance

        return provenance(self.config)

    def reload_catalogue(self) -> None:
        """Read models.yaml again, so that a model pulled or edited meanwhile counts.

        Raises:
            InvalidFile: models.yaml is not valid any more.
        """
        self.catalogue = load_catalogue(self.config)

    def collect_knowledge(self, policy: Policy, resident: str | None = None) -> PolicyKnowledge:
        """Collect what is known here for a policy's decisions; read when it is first asked for.

        Args:
            policy: The rules; they need not be saved.
            resident: Name of the model in memory, which needs no load.
        """
        from etui.runtime.log_predictor import predictor_for
        from etui.runtime.similar_questions import read_neighbours

        predictor = predictor_for(policy, self.config, self.catalogue, resident)
        return PolicyKnowledge(predictor, read_neighbours(policy, self.config))

    def decide(
        self,
        query: Query,
        policy: Policy,
        *,
        host: HostState | None,
        arm: str | None = None,
        knowledge: PolicyKnowledge | None = None,
        degraded: str | None = None,
        available: Callable[[str], bool] | None = None,
        every_signal: bool = False,
        shadow: bool = True,
    ) -> Choice:
        """Decide which arm answers a query on this machine.

        Args:
            query: The question with its chat.
            policy: The rules; they need not be saved.
            host: State of the machine; None where host signals are unknown (a replay).
            arm: An arm of the policy to take without trying its rules.
            knowledge: What is known for this policy; None collects it now.
            degraded: Why the cheapest arm is to answer; None lets the rules decide.
            available: Which models count as being on disk; None looks.
            every_signal: Whether signals that no rule needed are evaluated as well, for display.
            shadow: Whether the policy's shadow decides as well.

        Raises:
            UsageError: The policy has no such arm.
            ModelUnavailable: No model that may answer is on this machine.
            InvalidFile: What was fitted for the policy is damaged.
        """
        from etui.routing.decide import decide, decide_arm

        here = available or models_on_disk(self.config, self.catalogue)
        if knowledge is None:
            knowledge = self.collect_knowledge(policy, host.resident if host is not None else None)
        predictor = knowledge.predictor
        if arm is not None:
            named = decide_arm(policy, arm, available=here, query=query, outlook=predictor)
            if degraded:
                named = replace(named, notices=(*named.notices, f"{degraded}: as named, {arm}"))
            return Choice(named, predictor)
        decision = decide(
            query,
            policy,
            available=here,
            host=host,
            outlook=predictor,
            neighbours=knowledge.earlier,
            every_signal=every_signal,
        )
        if degraded:
            decision = _cheapest(decision, policy, query, predictor, here, degraded)
        if decision.cascade is not None:
            predictor.calibrated(decision.arm, None, None)  # a damaged fit is reported at once
        if shadow:
            decision = self._with_shadow(decision, policy, query, here, host)
        return Choice(decision, predictor)

    def _with_shadow(
        self,
        decision: Decision,
        policy: Policy,
        query: Query,
        here: Callable[[str], bool],
        host: HostState | None,
    ) -> Decision:
        from etui.routing.shadow import with_shadow

        def look_ahead(other: Policy) -> tuple[LogPredictor, EarlierQuestions | None]:
            known = self.collect_knowledge(other, host.resident if host is not None else None)
            return known.predictor, known.earlier

        return with_shadow(
            decision,
            policy,
            query,
            self.config,
            self.catalogue.models,
            available=here,
            host=host,
            look_ahead=look_ahead,
        )

    def serve(self, arm: Arm) -> Served:
        """Find the model file of an arm, and count net joules from its idle baseline from now on.

        Raises:
            ModelUnavailable: Not on disk, damaged, or another file than it should be.
        """
        spec, path = find_model_file(arm, self.config, self.catalogue)
        settings = {"idle_baseline": self.use_idle_baseline(spec.name)}
        return Served(spec, path, token_cost_for(arm, spec, self.config), settings)

    def use_idle_baseline(self, model: str) -> str | None:
        """Count net joules from a model's idle baseline; return which one it is, None without."""
        from etui.energy.idle_baseline import load_baselines, use

        return use(self.recorder, load_baselines(self.config), model)

    def run_turn(
        self,
        query: Query,
        choice: Choice,
        *,
        writer: Writer | None = None,
        settings: Mapping[str, Any] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Generator[TurnEvent, None, None]:
        """Answer a query as decided and save the turn; see :func:`etui.turn.run.run_turn`.

        Args:
            query: The question with its chat.
            choice: What :meth:`decide` returned.
            writer: Takes the record; None writes to the log.
            settings: Settings of the turn beyond versions and threads.
            cancelled: Whether the user has stopped the turn.
        """
        from etui.turn.run import run_turn

        return run_turn(
            query,
            choice.decision,
            serve=self.serve,
            answerer=self.backend,
            meter=self.meter,
            writer=writer if writer is not None else self.writer,
            outlook=choice.predictor,
            settings={**self.provenance, **(settings or {})},
            cancelled=cancelled,
        )

    def close(self) -> None:
        """Close what was opened: the backend, the log, the power meter.

        Raises:
            LogUnavailable: Something could not be written; says where it went.
        """
        opened = vars(self)
        try:
            if "backend" in opened:
                self.backend.close()
        finally:
            try:
                if "writer" in opened:
                    self.writer.close()
            finally:
                if "recorder" in opened:
                    self.recorder.close()

    def __enter__(self) -> Runtime[B]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            with suppress(LogUnavailable):  # the first error is the one to report
                self.close()


def open_runtime(
    config: Config, on_log_error: Callable[[LogUnavailable], None] | None = None
) -> Runtime[LocalBackend]:
    """Open etui with llama.cpp in this process, as ``ask`` and ``bench`` use it.

    Args:
        config: Folders and settings.
        on_log_error: Called when something could not be written to the log.

    Raises:
        InvalidFile: models.yaml is not valid.
    """

    def local(config: Config) -> LocalBackend:
        from etui.backends.local import LocalBackend

        return LocalBackend(config)

    def writer(config: Config) -> TurnWriter:
        from etui.log.writer import TurnWriter

        return TurnWriter(config, on_log_error)

    return Runtime(config, local, open_writer=writer)


def open_process_runtime(config: Config) -> Runtime[ProcessBackend]:
    """Open etui with llama.cpp in a child process, as the app uses it.

    Raises:
        InvalidFile: models.yaml is not valid.
    """

    def process(config: Config) -> ProcessBackend:
        from etui.backends.process import ProcessBackend

        return ProcessBackend(config)

    return Runtime(config, process)


def _cheapest(
    decision: Decision,
    policy: Policy,
    query: Query,
    predictor: LogPredictor,
    here: Callable[[str], bool],
    why: str,
) -> Decision:
    """Put the cheapest arm in place of the decision's own, with a notice."""
    from etui.routing.decide import cheapest_arm

    arm = cheapest_arm(policy, query, predictor, here)
    notice = f"{why}: {arm.name} answers, the cheapest arm"
    joules = predictor.joules(arm, query)
    instead = f" in place of {decision.arm.name}" if decision.arm.name != arm.name else ""
    return replace(
        decision,
        arm=arm,
        cascade=None,
        why=f"a budget is spent, so {arm.name} answers{instead} ({decision.why})",
        predicted_joules=None if joules is None else joules.total,
        predicted_accuracy=None,
        margin_joules=None,
        notices=(*decision.notices, notice),
    )
