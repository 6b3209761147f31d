"""The price of an arm's tokens, where its depth of thought is regulated by joules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etui.arm import Arm, DecodePrice
from etui.errors import LogUnavailable

if TYPE_CHECKING:
    from etui.config import Config
    from etui.model_spec import ModelSpec


def price_for(arm: Arm, spec: ModelSpec, config: Config) -> DecodePrice | None:
    """What the model's tokens cost; None where the arm does not ask or nobody knows.

    The operating curve of this machine comes before the mean of the last turns.

    A log that cannot be read costs no answer: its thought is then bounded by what is measured
    while it goes on.
    """
    if arm.reasoning != "cot" or (arm.max_joules is None and arm.exchange is None):
        return None
    from etui.log.log_curve import curve_here
    from etui.log.queries import LogReader
    from etui.provenance import conditions

    try:
        with LogReader(config) as log:
            curve = curve_here(log, spec.name, spec.sha256, conditions(config))
            return curve.to_decode_price() if curve else log.price(spec.name, spec.sha256)
    except LogUnavailable:
        return None
