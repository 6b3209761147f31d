"""What can be done with a model: jobs that run one at a time in the job bar."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from etui.config.config import Config
from etui.tui import jobs
from etui.tui.jobs import JobEnded
from etui.tui.models.calibration_job import QUICK_OPTION, calibrate, plan_calibration
from etui.tui.models.cards import ModelCard
from etui.tui.models.job_bar import JobBar
from etui.tui.models.sweep_job import apply_sweep, plan_sweep, revert_tuned, run_sweep


class ModelActions:
    """Starts the jobs on models."""

    def __init__(self, config: Config, bar: JobBar) -> None:
        self._config = config
        self._bar = bar

    def pull(self, name: str) -> None:
        """Download a model."""
        post = self._bar.post
        self._bar.start(
            f"pulling {name} …",
            lambda services, stopped: jobs.pull(services.shelf, name, post, stopped),
        )

    def verify(self, name: str) -> None:
        """Check the sha256 of the whole file of a model."""
        post = self._bar.post
        self._bar.start(
            f"checking {name} …",
            lambda services, stopped: jobs.verify(services.shelf, name, post, stopped),
        )

    def load(self, name: str) -> None:
        """Load a model into memory."""
        self._bar.start(
            f"loading {name} …", lambda services, _stopped: jobs.load(services.runner, name)
        )

    def unload(self, name: str) -> None:
        """Unload a model from memory."""
        self._bar.start(
            f"unloading {name} …", lambda services, _stopped: jobs.unload(services.runner, name)
        )

    def calibrate(self, card: ModelCard, *, quick: bool) -> None:
        """Ask whether to measure what the tokens of a model cost, and measure it after a yes."""
        name, curve = card.spec.name, card.curve
        self._bar.start(
            f"checking that the machine is idle, to calibrate {name} …",
            lambda services, stopped: plan_calibration(
                services.runner, name, curve, stopped, quick=quick
            ),
            partial(self._calibrate, name, (QUICK_OPTION,) if quick else ()),
        )

    def sweep(self, name: str) -> None:
        """Plan a sweep of a model, and measure it after a yes."""
        self._bar.start(
            f"planning a sweep of {name} …",
            lambda _services, stopped: plan_sweep(self._config, name, stopped),
            partial(self._sweep, name, ()),
        )

    def apply_sweep(self, name: str, folder: Path) -> None:
        """Use the best setting of a sweep."""
        self._bar.start(
            f"applying the sweep of {name} …",
            lambda _services, stopped: apply_sweep(self._config, name, folder, stopped),
        )

    def revert(self, name: str) -> None:
        """Use the settings of models.yaml again."""
        self._bar.start(
            f"reverting {name} …", lambda _services, _stopped: revert_tuned(self._config, name)
        )

    def _calibrate(self, name: str, options: tuple[str, ...], ended: JobEnded) -> None:
        chosen = (*options, *ended.options)
        self._bar.start(
            f"calibrating {name} …",
            lambda services, stopped: calibrate(
                services.runner, self._config, name, self._bar.post, stopped, chosen
            ),
            partial(self._calibrate, name, chosen),
            metered=True,
        )

    def _sweep(self, name: str, options: tuple[str, ...], ended: JobEnded) -> None:
        chosen = (*options, *ended.options)
        self._bar.start(
            f"sweeping {name} …",
            lambda services, stopped: run_sweep(
                services.runner, self._config, name, self._bar.post, stopped, chosen
            ),
            partial(self._sweep, name, chosen),
            metered=True,
        )
