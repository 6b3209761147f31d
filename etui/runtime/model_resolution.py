"""Resolve an arm to a model file on this machine, with its token cost and curve from the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from etui.arm import Arm, Reasoning, SamplingOrigin, Speculate, TokenCost
from etui.errors import EtuiError, LogUnavailable, ModelUnavailable, UsageError
from etui.models.spec import ModelSampling
from etui.runtime.caches import FileCache, read_log

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.curves.operating_curve import OperatingCurve
    from etui.log.queries import LogReader
    from etui.models.catalogue import Catalogue
    from etui.models.spec import ModelSpec
    from etui.runtime.caches import LogCache
    from etui.turn.record import TurnRecord


class ModelFiles:
    """Facts of model files by model; safe to use from several threads.

    Hashing a file takes seconds and reading its header tens of milliseconds; comparing the states
    of files takes some microseconds.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._checked: FileCache[tuple[ModelSpec, Path]] = FileCache()
        self._sampling: FileCache[ModelSampling | None] = FileCache()
        self._contexts: FileCache[int | None] = FileCache()

    def find(self, arm: Arm, catalogue: Catalogue) -> tuple[ModelSpec, Path]:
        """Find the file of an arm's model; one that was checked is not until it changes.

        Its record in the models folder says so too, but that folder may be read-only. Errors are
        those of :func:`find_model_file`.
        """
        from etui.models.files import record_path

        def list_files(found: tuple[ModelSpec, Path]) -> Iterator[str]:
            yield from (str(found[1]), str(record_path(arm.model, self._config.models_dir)))
            yield from (str(adapter.path) for adapter in found[0].adapters)
            if found[0].mmproj is not None:
                yield str(found[0].mmproj)

        return self._checked.get(
            catalogue.get(arm.model),
            lambda: find_model_file(arm, self._config, catalogue),
            list_files,
        )

    def read_sampling(self, path: Path) -> ModelSampling | None:
        """Read what a model file asks for, once for each state of it."""
        return self._sampling.get(path, lambda: _read_file_sampling(path), lambda _: (str(path),))

    def find_context_tokens(self, model: str, catalogue: Catalogue) -> int | None:
        """Return the context of a model as it would be loaded, in tokens; None if it is unknown.

        The header of a file is read once for each state of it: that takes tens of milliseconds.
        """
        from etui.models.files import model_path

        spec = catalogue.models.get(model)
        if spec is None or spec.backend is not None:
            return (spec.context or None) if spec is not None else None
        path = model_path(spec, self._config)
        return self._contexts.get(
            (spec, path), lambda: self._read_context(spec, path), lambda _: (str(path),)
        )

    def _read_context(self, spec: ModelSpec, path: Path) -> int | None:
        from etui.engine.session_loader import choose_context_tokens
        from etui.models.gguf import check_gguf

        try:
            return choose_context_tokens(self._config, spec, check_gguf(path))
        except EtuiError:
            return spec.context or None


LEAST_VOTE_TEMPERATURE = 0.5
"""Lowest temperature of a vote that a model may ask for: the lowest of those in Wang et al.,
"Self-Consistency Improves Chain of Thought Reasoning in Language Models" (2022)."""

_ADD_DRAFT = "add `draft: NAME` to its entry in models.yaml, or use lookup or auto"

_OPEN: tuple[SamplingOrigin, ...] = ("default", "vote")


def has_open_sampling(arm: Arm) -> bool:
    """Return whether the model may replace a value of the arm's sampling."""
    return any(origin in _OPEN for origin in asdict(arm.sampling_from).values())


def resolve_sampling(
    arm: Arm, asked: ModelSampling | None, origin: Literal["models.yaml", "gguf"], *, tags: bool
) -> Arm:
    """Replace the open values of an arm's sampling by those that its model asks for.

    Values that the policy or an option states are kept. A model that asks for less than
    ``LEAST_VOTE_TEMPERATURE`` does not set that of a vote: votes drawn nearly greedily are equal,
    cost joules and decide nothing. A model with think ``tags`` thinks only in the native style: the
    ``plain`` and ``draft`` styles switch its own thinking off.
    """
    if asked is None:
        return arm
    found: dict[str, tuple[float, SamplingOrigin]] = {
        name: (value, origin) for name, value in _given(asked).items()
    }
    # The model thinks in this arm as :mod:`etui.reasoning.prompts` chooses it.
    native = arm.style in ("auto", "native") or not tags
    thinks = arm.reasoning != "direct" and bool(arm.think_tokens) and native
    if asked.thinking is not None and thinks:
        thinking = _given(asked.thinking).items()
        found |= {name: (value, "models.yaml thinking") for name, value in thinking}
    origins, votes = asdict(arm.sampling_from), arm.reasoning == "vote" and arm.votes > 1
    taken = {
        name: (value, source)
        for name, (value, source) in found.items()
        if origins[name] in _OPEN
        and not (votes and name == "temperature" and value < LEAST_VOTE_TEMPERATURE)
    }
    values: dict[str, Any] = {name: value for name, (value, _) in taken.items()}
    sources: dict[str, Any] = {name: source for name, (_, source) in taken.items()}
    return replace(
        arm,
        sampling=replace(arm.sampling, **values),
        sampling_from=replace(arm.sampling_from, **sources),
    )


def _given(asked: ModelSampling) -> dict[str, float]:
    values = asdict(asked)
    del values["thinking"]
    return {name: value for name, value in values.items() if value is not None}


def token_cost_for(
    arm: Arm, spec: ModelSpec, config: Config, kept: LogCache | None = None
) -> TokenCost | None:
    """Return the joules per token of a model; None if unknown, or not needed by the arm."""
    if arm.reasoning != "cot" or (arm.max_joules is None and arm.exchange is None):
        return None
    return load_token_cost(spec, config, kept)


def load_token_cost(
    spec: ModelSpec, config: Config, kept: LogCache | None = None
) -> TokenCost | None:
    """Return the joules per token of a model, as :func:`read_token_cost`.

    A log that cannot be read must not prevent an answer: its thinking is then limited by the energy
    measured while it runs.
    """
    try:
        return read_log(
            config, kept, ("token cost", spec), lambda log: read_token_cost(spec, config, log)
        )
    except LogUnavailable:
        return None


def read_token_cost(spec: ModelSpec, config: Config, log: LogReader) -> TokenCost | None:
    """Read the joules per token of a model; None if they are unknown.

    They come from the operating curve of this machine, or else from the mean of the last turns. The
    model has the sha256 of its file if it is known.
    """
    from etui.log.curve_lookup import find_curve
    from etui.runtime.provenance import find_conditions

    curve = find_curve(log, spec.name, spec.sha256, find_conditions(log, spec, config))
    return curve.to_decode_price() if curve else log.price(spec.name, spec.sha256)


def refit_curve(
    record: TurnRecord, config: Config, save: Callable[[OperatingCurve], object]
) -> None:
    """Fit the curve of a turn's model again if there are enough new turns in the log.

    Usually this only reads the log; a fit, every twenty turns, takes as long as importing scipy. A
    log that cannot be read is ignored here: its writer has reported it.
    """
    if record.hops or record.status not in ("complete", "truncated"):
        return
    from etui.curves.operating_curve import parse_conditions
    from etui.log.curve_lookup import find_curve
    from etui.log.queries import LogReader
    from etui.runtime.provenance import provenance

    now = parse_conditions({**provenance(config), **record.settings}, ())
    try:
        with LogReader(config) as log:
            find_curve(log, record.model, record.model_sha256, now, save)
    except LogUnavailable:
        return


def catalogue_name(model: str, config: Config, catalogue: Catalogue) -> str:
    """Return the name of the entry if ``model`` is the path of its file; else ``model`` itself."""
    from etui.models.files import model_path

    stem = Path(model).stem
    if model.endswith(".gguf") and stem in catalogue:
        file = model_path(catalogue.models[stem], config)
        given = Path(model).expanduser()
        if file.is_file() and given.is_file() and file.samefile(given):
            return stem
    return model


def find_model_file(arm: Arm, config: Config, catalogue: Catalogue) -> tuple[ModelSpec, Path]:
    """Find the model of an arm, with the hash of its file and adapters, and the file.

    ModelUnavailable if a file is missing, damaged, or has another sha256.
    """
    from etui.models.files import hash_adapters, recorded_sha256, require

    spec = catalogue.get(arm.model)
    path = require(spec, config)
    sha256 = spec.file_sha256 or recorded_sha256(spec, config)
    return hash_adapters(replace(spec, sha256=sha256), path, config), path


def find_draft_file(
    arm: Arm, spec: ModelSpec, config: Config, catalogue: Catalogue
) -> tuple[ModelSpec, Path] | None:
    """Find the draft model of an arm and its file; None if the arm uses none.

    ``speculate: auto`` goes on without a draft model that is not on this machine; with
    ``speculate: draft`` that is ModelUnavailable.
    """
    if arm.reasoning == "vote" or arm.speculate not in ("draft", "auto"):
        return None
    if spec.draft is None and arm.speculate == "draft":
        what = f"{spec.name} has no draft model, which speculate: draft needs"
        raise ModelUnavailable(what, _ADD_DRAFT)
    try:
        found = None if spec.draft is None else replace(arm, model=spec.draft)
        return None if found is None else find_model_file(found, config, catalogue)
    except ModelUnavailable as error:
        if arm.speculate == "auto":
            return None
        what = f"the draft model of {spec.name} cannot be used: {error.what}"
        raise ModelUnavailable(what, error.fix) from error


def check_draft_option(arms: Iterable[Arm], catalogue: Catalogue) -> None:
    """Raise UsageError if an arm of ``--speculate draft`` has a model without a draft model."""
    for arm in arms:
        if arm.speculate == "draft" and catalogue.get(arm.model).draft is None:
            what = f"{arm.model} has no draft model, which --speculate draft needs"
            raise UsageError(what, _ADD_DRAFT)


def choose_speculation(spec: ModelSpec, reasoning: Reasoning) -> Speculate:
    """Return the speculation of an arm that does not say; votes are never speculated."""
    return "off" if reasoning == "vote" else spec.speculate or "off"


def sample_as_asked(
    arm: Arm, spec: ModelSpec, read_file: Callable[[], ModelSampling | None]
) -> Arm:
    """Resolve an arm's open sampling values: by models.yaml, or else by the model file.

    A ``sampling:`` of the entry, even an empty one, is all that the model asks for; what the user
    set beside it comes first. The file is read only if it is needed.
    """
    if not has_open_sampling(arm):
        return arm
    tags = bool(spec.think_close)
    if spec.own is not None:
        arm = resolve_sampling(arm, spec.own.sampling, "models.yaml", tags=tags)
    if spec.sampling is not None:
        return resolve_sampling(arm, spec.sampling, "models.yaml", tags=tags)
    return resolve_sampling(arm, read_file(), "gguf", tags=tags)


def _read_file_sampling(path: Path) -> ModelSampling | None:
    """Read ``general.sampling.*`` of a model file; None if it has none or cannot be read.

    A damaged header is reported by the load of the model, with the fix.
    """
    from etui.models.gguf import check_gguf

    try:
        return check_gguf(path).sampling
    except ModelUnavailable:
        return None


def models_on_disk(
    config: Config,
    catalogue: Catalogue,
    is_reachable: Callable[[str], bool] = lambda _backend: True,
) -> Callable[[str], bool]:
    """Return a function that tests whether a named model can answer from this machine.

    A local model can if its file is here. A remote one can if its backend is in config.yaml and
    counts as reachable, by its name; it is not asked.
    """
    from etui.models.files import has_file

    def is_available(name: str) -> bool:
        if name not in catalogue:
            return False
        spec = catalogue.get(name)
        if spec.backend is not None:
            return spec.backend in config.backends and is_reachable(spec.backend)
        beside = [each.path for each in spec.adapters]
        beside += [] if spec.mmproj is None else [spec.mmproj]
        return has_file(spec, config) and all(path.is_file() for path in beside)

    return is_available
