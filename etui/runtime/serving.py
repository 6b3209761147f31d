"""Resolve an arm to a model file on this machine, with its cost and curve from the log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from etui.arm import Arm, TokenCost
from etui.errors import LogUnavailable

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.log.records import CurveRecord
    from etui.models.catalogue import Catalogue
    from etui.models.spec import ModelSpec
    from etui.turn.record import TurnRecord


def token_cost_for(arm: Arm, spec: ModelSpec, config: Config) -> TokenCost | None:
    """What the model's tokens cost; None where the arm does not ask or nobody knows.

    The operating curve of this machine comes before the mean of the last turns.

    A log that cannot be read costs no answer: its thought is then bounded by what is measured
    while it goes on.
    """
    if arm.reasoning != "cot" or (arm.max_joules is None and arm.exchange is None):
        return None
    from etui.log.curve_lookup import find_curve
    from etui.log.queries import LogReader
    from etui.runtime.provenance import conditions

    try:
        with LogReader(config) as log:
            curve = find_curve(log, spec.name, spec.sha256, conditions(config))
            return curve.to_decode_price() if curve else log.price(spec.name, spec.sha256)
    except LogUnavailable:
        return None


def refit_curve(record: TurnRecord, config: Config, save: Callable[[CurveRecord], None]) -> None:
    """Make the curve of a turn's model anew where enough turns have come since it was made.

    Mostly a look into the log; a fit, once in twenty turns, takes as long as importing scipy. A
    log that cannot be read has been told of by whoever writes it.
    """
    if record.hops or record.status not in ("complete", "truncated"):
        return
    from etui.log.curve_lookup import find_curve
    from etui.log.queries import LogReader
    from etui.runtime.provenance import conditions

    try:
        with LogReader(config) as log:
            find_curve(log, record.model, record.model_sha256, conditions(config), save)
    except LogUnavailable:
        return


def catalogue_name(model: str, config: Config, catalogue: Catalogue) -> str:
    """The name of an entry, where the path of its own file was given; else what was given."""
    from etui.models.files import model_path

    stem = Path(model).stem
    if model.endswith(".gguf") and stem in catalogue:
        place = model_path(catalogue.models[stem], config)
        given = Path(model).expanduser()
        if place.is_file() and given.is_file() and place.samefile(given):
            return stem
    return model


def find_model_file(arm: Arm, config: Config, catalogue: Catalogue) -> tuple[ModelSpec, Path]:
    """The model of an arm with the hash its file was checked against, and the file.

    Raises:
        ModelUnavailable: Not on disk, damaged, or another file than it should be.
    """
    from etui.models.files import recorded_sha256, require

    spec = catalogue.get(arm.model)
    path = require(spec, config)
    return replace(spec, sha256=spec.sha256 or recorded_sha256(spec, config)), path


def models_on_disk(config: Config, catalogue: Catalogue) -> Callable[[str], bool]:
    """A test whether a model of this name has a file here."""
    from etui.models.files import model_path

    def here(name: str) -> bool:
        return name in catalogue and model_path(catalogue.get(name), config).is_file()

    return here
