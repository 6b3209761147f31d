"""Open etui on this machine: the only place where its parts are put together.

Every front end (``ask``, ``bench``, the app, the policy commands) starts from a :class:`Runtime`.
Each part opens at its first use, so that explaining a decision needs no power meter and no engine,
and an error in the policy is reported before a model is loaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from etui.backends.base import Cancel, ModelHost
from etui.chat import Query
from etui.config.config import Config, read_defaults, shipped_dir
from etui.energy.wall_model import save_checks
from etui.errors import EtuiError, LogUnavailable
from etui.models.catalogue import Catalogue, load_catalogue
from etui.runtime.caches import FileCache, LogCache
from etui.runtime.log_predictor import NeighbourMemory
from etui.runtime.model_resolution import (
    ModelFiles,
    find_draft_file,
    load_token_cost,
    models_on_disk,
    sample_as_asked,
    token_cost_for,
)
from etui.turn.interfaces import ResolvedModel

if TYPE_CHECKING:
    from etui.arm import Arm, TokenCost
    from etui.backends.local import LocalBackend
    from etui.backends.process import ProcessBackend
    from etui.backends.remote.backend import RemoteBackend
    from etui.energy.recorder import Recorder
    from etui.learning.predictor import AccuracyPredictor
    from etui.log.writer import TurnWriter
    from etui.routing.policy import Policy
    from etui.runtime.decide import Choice
    from etui.runtime.remote_models import RemoteMeters
    from etui.turn.interfaces import Meter, Origin, Save
    from etui.turn.run import Turn
    from etui.turn.tool_loop import ToolLoop, Tools

B = TypeVar("B", bound=ModelHost, covariant=True)


class Runtime(Generic[B]):
    """Owns the parts of etui that are open on this machine, and closes them.

    Args:
        report_log: Called with a text when the log cannot be written, and when it can be again.

    Attributes:
        catalogue: The models, as read when the runtime was opened or by the last
            :meth:`reload_catalogue`.
        log_cache: What decisions have read from the log.
        neighbours: The earlier questions that decisions have compared with.
        clock_ns: The monotonic clock of its turns, the same as the meter's.
    """

    def __init__(
        self,
        config: Config,
        open_backend: Callable[[Config], B],
        report_log: Callable[[str], None] | None = None,
    ) -> None:
        self.config = config
        self.clock_ns: Callable[[], int] = time.monotonic_ns
        self._open_backend = open_backend
        self._report_log = report_log
        self._catalogues: FileCache[Catalogue] = FileCache()
        self.model_files = ModelFiles(config)
        self._policy_folders = (str(shipped_dir() / "policies"), str(config.policies_dir))
        self._policies: FileCache[Policy] = FileCache()
        self._policy_names: FileCache[tuple[str, ...]] = FileCache()
        self._fits: FileCache[AccuracyPredictor | None] = FileCache()
        self._defaults: FileCache[tuple[str, str | None]] = FileCache()
        self._read_defaults: tuple[str, str | None] | None = None
        self.log_cache = LogCache(config)
        self.neighbours = NeighbourMemory()
        self.catalogue: Catalogue = load_catalogue(config)

    @cached_property
    def recorder(self) -> Recorder:
        """The power meter, not started."""
        from etui.energy.discovery import open_recorder

        return open_recorder(self.config)

    @property
    def meter(self) -> Recorder:
        """The power meter, started."""
        self.recorder.start()
        return self.recorder

    @cached_property
    def backend(self) -> B:
        """The engine of this machine, opened at its first use without any model."""
        return self._open_backend(self.config)

    @cached_property
    def remotes(self) -> Mapping[str, RemoteBackend]:
        """The remote backends of config.yaml by name; none is asked before its first request."""
        if not self.config.backends:
            return {}
        from etui.runtime.remote_models import open_remotes

        return open_remotes(self.config)

    def find_available(self) -> Callable[[str], bool]:
        """Return a function that tests whether a named model can answer now.

        A file of a local model is looked for on disk; a remote model can answer unless its backend
        has just failed several times, or its key is missing.
        """
        return models_on_disk(self.config, self.catalogue, self._is_reachable)

    def is_remote(self, model: str) -> bool:
        """Return whether a remote backend serves a named model."""
        return model in self.catalogue and self.catalogue.get(model).backend is not None

    def _is_reachable(self, backend: str) -> bool:
        return backend in self.remotes and self.remotes[backend].is_available

    @cached_property
    def writer(self) -> TurnWriter:
        """The writer of the log, opened at its first use."""
        from etui.log.writer import TurnWriter

        return TurnWriter(self.config, self._report_log)

    @cached_property
    def remote_meters(self) -> RemoteMeters:
        """The meters of remote backends; each is asked with the first turn on its machine."""
        from etui.runtime.remote_models import RemoteMeters

        return RemoteMeters(self.config)

    @cached_property
    def provenance(self) -> Mapping[str, Any]:
        """Versions, machine and llama.cpp settings, which are logged with every turn."""
        from etui.runtime.provenance import provenance

        return provenance(self.config)

    def reload_catalogue(self) -> None:
        """Read models.yaml again, to notice what was pulled or edited; InvalidFile if wrong."""
        self.catalogue = self._catalogues.get(
            "models", lambda: load_catalogue(self.config), self._list_catalogue_files
        )

    def reload_defaults(self) -> None:
        """Take ``policy`` and ``model`` of config.yaml if they were edited since the last call.

        The first call only remembers them, so that options of the command line stay.
        """
        read = self._defaults.get(
            "defaults",
            lambda: read_defaults(self.config),
            lambda _: (str(self.config.config_file),),
        )
        before, self._read_defaults = self._read_defaults, read
        if before is not None and read != before:
            self.config = replace(self.config, policy=read[0], model=read[1])

    def _list_catalogue_files(self, catalogue: Catalogue) -> Iterator[str]:
        from etui.models.files import list_catalogue_files

        return map(str, list_catalogue_files(catalogue.models, catalogue.tuned, self.config))

    def policy_names(self) -> tuple[str, ...]:
        """Return the names of all policies, sorted."""
        from etui.routing.library import policy_names

        return self._policy_names.get(
            "names", lambda: policy_names(self.config), lambda _names: self._policy_folders
        )

    def load_policy(self, name: str) -> Policy:
        """Load a policy by name or path, or return it from memory if its file is unchanged.

        Checking and compiling a policy takes some milliseconds, comparing the states of its files
        some microseconds. A path is always read, and another catalogue compiles a policy again.
        UsageError if there is none of that name, InvalidFile if it has errors.
        """
        from etui.routing.library import load_policy

        catalogue = self.catalogue

        def read() -> Policy:
            return load_policy(name, self.config, catalogue.models)

        if name not in self.policy_names():
            return read()
        return self._policies.get(
            name, read, lambda policy: (str(policy.path), *self._policy_folders), since=catalogue
        )

    def load_fit(self, policy: Policy) -> AccuracyPredictor | None:
        """Load the fit of a policy, or take it from memory; None without one, else InvalidFile."""
        from etui.learning.predictor import get_fitted_path, load_accuracy

        path = str(get_fitted_path(policy, self.config))
        return self._fits.get(path, lambda: load_accuracy(policy, self.config), lambda _: (path,))

    def resolve(self, arm: Arm) -> ResolvedModel:
        """Find the model file of an arm, and use its idle baseline for net joules from now on.

        A model of a remote backend has no file, and the meter of its machine. ModelUnavailable if
        the file, or that of the draft model, is missing, damaged, or has another sha256.
        """
        from etui.runtime.provenance import model_settings
        from etui.runtime.remote_models import serve_remote

        entry = self.catalogue.get(arm.model)
        if entry.backend is not None:
            price = token_cost_for(arm, entry, self.config, self.log_cache)
            return serve_remote(arm, entry, self.remotes, self.remote_meters, price)
        spec, path = self.model_files.find(arm, self.catalogue)
        draft = find_draft_file(arm, spec, self.config, self.catalogue)
        settings = {
            "idle_baseline": self.use_idle_baseline(spec.name),
            **model_settings(spec, self.config),
        }
        sampled = sample_as_asked(arm, spec, partial(self.model_files.read_sampling, path))
        if self.config.cache == "on":  # it says what a KV cache saves, and which to keep
            price = load_token_cost(spec, self.config, self.log_cache)
        else:
            price = token_cost_for(arm, spec, self.config, self.log_cache)
        return ResolvedModel(spec, path, price, settings, draft, sampled)

    def find_token_cost(self, model: str) -> TokenCost | None:
        """Return the joules per token of a model on this machine; None if they are unknown."""
        from etui.models.files import content_sha256

        if model not in self.catalogue:
            return None
        spec = self.catalogue.get(model)
        if spec.backend is None:
            spec = replace(spec, sha256=content_sha256(spec, self.config))
        return load_token_cost(spec, self.config, self.log_cache)

    def use_idle_baseline(self, model: str) -> str | None:
        """Use a model's idle baseline for net joules; return which one is used, None without."""
        from etui.energy.idle import load_baselines, use_baseline

        return use_baseline(self.recorder, load_baselines(self.config), model)

    def turn(
        self,
        query: Query,
        choice: Choice,
        cancel: Cancel | None = None,
        origin: Origin | None = None,
        meter: Meter | None = None,
        save: Save | None = None,
    ) -> Turn:
        """Make the turn that answers a query; ``meter`` and ``save`` replace recorder and log."""
        from etui.runtime.overrides import set_loop_guard
        from etui.turn.interfaces import Machine
        from etui.turn.run import Turn

        machine = Machine(
            self.resolve,
            lambda: self.backend,
            self.meter if meter is None else meter,
            self.writer.save if save is None else save,
            self.provenance,
            self.clock_ns,
            self.writer.open_turns if save is None else None,
        )
        decision = set_loop_guard(choice.decision, self.config.loop_guard)
        return Turn(query, decision, machine, choice.predictor, cancel, origin)

    def tool_turn(
        self,
        query: Query,
        tools: Tools,
        decide: Callable[[Query], Choice],
        cancel: Cancel,
        origin: Origin,
        meter: Meter | None = None,
    ) -> ToolLoop:
        """Make the turn that answers a query with tools, whose rounds are decided one by one."""
        from etui.runtime.log_predictor import LogPredictor
        from etui.turn.tool_loop import Round, ToolLoop

        def decide_round(query: Query) -> Round:
            choice = decide(query)
            predictor = choice.predictor or LogPredictor(
                self.config, self.catalogue, log=self.log_cache
            )
            expected = predictor.joules(choice.decision.arm, query)
            turn = self.turn(query, choice, cancel, origin, meter)
            model = choice.decision.arm.model
            context_tokens = self.model_files.find_context_tokens(model, self.catalogue)
            return Round(turn, None if expected is None else expected.total, context_tokens)

        return ToolLoop(query, tools, decide_round, cancel)

    def close(self) -> None:
        """Close the parts that were opened: the backend, the log, the power meter.

        Raises:
            LogUnavailable: Something could not be written; the message says where it was saved.
        """
        opened = vars(self)
        self.log_cache.close()
        try:
            if "backend" in opened:
                self.backend.close()
            if "remotes" in opened:  # asked what they serve, perhaps, without any answer
                for remote in self.remotes.values():
                    remote.close()
        finally:
            try:
                if "writer" in opened:
                    self.writer.close()
            finally:
                if "remote_meters" in opened:
                    self.remote_meters.close()
                if "recorder" in opened:
                    with suppress(EtuiError):  # only the checks of the wall meter are lost
                        save_checks(self.config, self.recorder, self.clock_ns())
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
            with suppress(LogUnavailable):  # report the first error
                self.close()


def open_runtime(
    config: Config,
    report_log: Callable[[str], None] | None = None,
    *,
    keep: bool = False,
) -> Runtime[LocalBackend]:
    """Open etui with llama.cpp in this process, as ``ask`` and ``bench`` use it.

    Args:
        keep: Whether KV caches outlive the process, as the settings say; not where it measures.

    Raises:
        InvalidFile: models.yaml is not valid.
    """

    def open_backend(config: Config) -> LocalBackend:
        from etui.backends.local import LocalBackend

        return LocalBackend(config, trials=True, keep=keep)

    return Runtime(config, open_backend, report_log)


def open_process_runtime(
    config: Config, report_log: Callable[[str], None] | None = None
) -> Runtime[ProcessBackend]:
    """Open etui with llama.cpp in a child process, as the app uses it; else as `open_runtime`."""

    def open_backend(config: Config) -> ProcessBackend:
        from etui.backends.process import ProcessBackend

        return ProcessBackend(config)

    return Runtime(config, open_backend, report_log)
