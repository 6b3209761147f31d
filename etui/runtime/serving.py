"""Resolve an arm to a model file on this machine, with its token cost and curve from the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from etui.arm import Arm, Reasoning, Speculate, TokenCost
from etui.errors import LogUnavailable, ModelUnavailable, UsageError

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.log.queries import LogReader
    from etui.log.records import CurveRecord
    from etui.models.catalogue import Catalogue
    from etui.models.spec import ModelSampling, ModelSpec
    from etui.runtime.log_cache import LogCache
    from etui.turn.record import TurnRecord


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
    """Return the joules per token of a model; None if they are unknown.

    They come from the operating curve of this machine, or else from the mean of the last turns. A
    log that cannot be read must not prevent an answer: its thinking is then limited by the energy
    measured while it runs.

    Args:
        spec: The model, with the sha256 of its file if it is known.
        config: Names the log, and the settings of llama.cpp, which a curve depends on.
        kept: Keeps what was read from the log; None reads it.
    """
    from etui.log.queries import LogReader

    def read(log: LogReader) -> TokenCost | None:
        return read_token_cost(spec, config, log)

    try:
        if kept is not None:
            return kept.get(("token cost", spec), read)
        with LogReader(config) as log:
            return read(log)
    except LogUnavailable:
        return None


def read_token_cost(spec: ModelSpec, config: Config, log: LogReader) -> TokenCost | None:
    """Read the joules per token of a model from the log; None if they are unknown.

    Args:
        spec: The model, with the sha256 of its file if it is known.
        config: Settings of llama.cpp, which a curve depends on.

    Raises:
        LogUnavailable: The log cannot be read.
    """
    from etui.log.curve_lookup import find_curve
    from etui.runtime.remote.remote_conditions import find_conditions

    curve = find_curve(log, spec.name, spec.sha256, find_conditions(log, spec, config))
    return curve.to_decode_price() if curve else log.price(spec.name, spec.sha256)


def refit_curve(record: TurnRecord, config: Config, save: Callable[[CurveRecord], None]) -> None:
    """Fit the curve of a turn's model again if there are enough new turns in the log.

    Usually this only reads the log; a fit, every twenty turns, takes as long as importing scipy. A
    log that cannot be read is ignored here: its writer has reported it.
    """
    if record.hops or record.status not in ("complete", "truncated"):
        return
    from etui.curves.measured_under import parse_conditions
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
    """Find the model of an arm, with the hash its file was checked against, and the file.

    Raises:
        ModelUnavailable: The file is missing, damaged, or has another sha256.
    """
    from etui.models.files import recorded_sha256, require

    spec = catalogue.get(arm.model)
    path = require(spec, config)
    return replace(spec, sha256=spec.sha256 or recorded_sha256(spec, config)), path


def find_draft_file(
    arm: Arm, spec: ModelSpec, config: Config, catalogue: Catalogue
) -> tuple[ModelSpec, Path] | None:
    """Find the draft model of an arm and its file; None if the arm uses none.

    ``speculate: auto`` goes on without a draft model that is not on this machine.

    Raises:
        ModelUnavailable: The arm has ``speculate: draft``, and the model has no draft model, or its
            file is missing, damaged, or has another sha256.
    """
    if arm.reasoning == "vote" or arm.speculate not in ("draft", "auto"):
        return None
    if spec.draft is None:
        if arm.speculate == "auto":
            return None
        raise ModelUnavailable(
            f"{spec.name} has no draft model, which speculate: draft needs",
            "add `draft: NAME` to its entry in models.yaml, or use lookup or auto",
        )
    try:
        return find_model_file(replace(arm, model=spec.draft), config, catalogue)
    except ModelUnavailable as error:
        if arm.speculate == "auto":
            return None
        raise ModelUnavailable(
            f"the draft model of {spec.name} cannot be used: {error.what}", error.fix
        ) from error


def check_draft_option(arms: Iterable[Arm], catalogue: Catalogue) -> None:
    """Check before anything is loaded that ``--speculate draft`` can be followed.

    Raises:
        UsageError: The model of an arm that is to speculate with a draft model has none.
    """
    for arm in arms:
        if arm.speculate == "draft" and catalogue.get(arm.model).draft is None:
            raise UsageError(
                f"{arm.model} has no draft model, which --speculate draft needs",
                "add `draft: NAME` to its entry in models.yaml, or use lookup or auto",
            )


def choose_speculation(spec: ModelSpec, reasoning: Reasoning) -> Speculate:
    """Return the speculation of an arm that does not say; votes are never speculated."""
    return "off" if reasoning == "vote" else spec.speculate or "off"


def sample_as_asked(
    arm: Arm, spec: ModelSpec, read_file: Callable[[], ModelSampling | None]
) -> Arm:
    """Resolve an arm's open sampling values: by models.yaml, or else by the model file.

    Args:
        spec: The entry of its model. A ``sampling:`` of its own, even an empty one, is all that the
            model asks for.
        read_file: Reads what the file asks for; called only if it is needed.
    """
    from etui.turn.sampling import has_open_sampling, resolve_sampling

    if not has_open_sampling(arm):
        return arm
    tags = spec.think_close is not None
    if spec.sampling is not None:
        return resolve_sampling(arm, spec.sampling, "models.yaml", tags=tags)
    return resolve_sampling(arm, read_file(), "gguf", tags=tags)


def read_file_sampling(path: Path) -> ModelSampling | None:
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
    counts as reachable; it is not asked.

    Args:
        config: Folders, and the remote backends.
        is_reachable: Returns whether a remote backend can be asked; it gets its name.
    """
    from etui.models.files import has_file

    def is_available(name: str) -> bool:
        if name not in catalogue:
            return False
        spec = catalogue.get(name)
        if spec.backend is not None:
            return spec.backend in config.backends and is_reachable(spec.backend)
        return has_file(spec, config)

    return is_available
