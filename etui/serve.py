"""Finds what answers for an arm on this machine: its model, the price of its tokens, its rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from etui.arm import Arm
from etui.choice import serving
from etui.price import price_for
from etui.turn_ports import Serve, Served

if TYPE_CHECKING:
    from etui.config import Config
    from etui.models import Catalogue


def serve_here(
    config: Config, catalogue: Catalogue, take_baseline: Callable[[str], str | None]
) -> Serve:
    """The ``serve`` of a turn on this machine.

    Args:
        take_baseline: Has the recorder count net joules by the idle baseline of a model from now
            on, and says which it is; None where there is none.
    """

    def serve(arm: Arm) -> Served:
        spec, path = serving(arm, config, catalogue)
        settings = {"idle_baseline": take_baseline(spec.name)}
        return Served(spec, path, price_for(arm, spec, config), settings)

    return serve
