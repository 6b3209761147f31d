"""Folders and user settings; one frozen Config is passed to whatever needs it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from etui.errors import EtuiError


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the environment and ``config.yaml`` say.

    Attributes:
        home: One folder for config, data and logs (``ETUI_HOME``, else the platform's data folder).
        models_dir: Model files (``ETUI_MODELS``, else ``models`` below home).
        sysfs_dir: Root of every sysfs read (``ETUI_SYSFS``, else ``/sys``).
        policy: Policy that routes when none is named.
        model: Model that answers when no policy is asked; None leaves it to the policy.
        threads: Threads of llama.cpp; None takes the physical cores.
        context_tokens: Upper bound on a context, to save memory; None takes the model's own.
        keep_warm_seconds: How long the app keeps a model in memory after its last answer; None
            keeps it until another model needs the memory.
        sample_hz: Readings a second of every power channel.
        cpu_idle_watts, cpu_limit_watts: Range of the labelled estimate for a machine without any
            power reading; None takes a stated default for the number of cores.
        estimate: ``auto`` estimates only when nothing can be measured, ``always`` adds the
            estimate to what is measured, ``never`` leaves it unmeasured.
        carbon_g_per_kwh: Grams of CO2 equivalent of a kilowatt-hour; None shows no carbon.
        price_per_kwh: Price of a kilowatt-hour in ``currency``; None shows no price.
        currency: Name or sign of the currency.
        theme: Theme of the app: ``etui-dark``, ``etui-light``, or one of Textual's.
        quiet: Whether the app begins in quiet mode, which draws less often.
        ascii: ``auto`` draws with ASCII where the locale cannot show Unicode, ``always`` or
            ``never`` says so.
        keymap: Binding id -> keys, to rebind the app.
    """

    home: Path
    models_dir: Path
    sysfs_dir: Path = Path("/sys")
    policy: str = "balanced"
    model: str | None = None
    threads: int | None = None
    context_tokens: int | None = None
    keep_warm_seconds: float | None = None
    sample_hz: float = 20.0
    cpu_idle_watts: float | None = None
    cpu_limit_watts: float | None = None
    estimate: str = "auto"
    carbon_g_per_kwh: float | None = None
    price_per_kwh: float | None = None
    currency: str = ""
    theme: str = "etui-dark"
    quiet: bool = False
    ascii: Literal["auto", "always", "never"] = "auto"
    keymap: Mapping[str, str] = field(default_factory=dict)

    @property
    def database(self) -> Path:
        """The SQLite log."""
        return self.home / "etui.db"

    @property
    def log_dir(self) -> Path:
        """Log files of llama.cpp and of the engine's process."""
        return self.home / "logs"

    @property
    def policies_dir(self) -> Path:
        """The user's own policies; one named as a shipped one takes its place."""
        return self.home / "policies"

    @property
    def models_file(self) -> Path:
        """The user's own model entries; they take the place of shipped ones of the same name."""
        return self.home / "models.yaml"

    @property
    def config_file(self) -> Path:
        """The user's settings."""
        return self.home / "config.yaml"


def shipped_dir() -> Path:
    """Folder of the shipped ``models.yaml`` and ``policies/``: in the wheel, or the checkout."""
    package = Path(__file__).parents[1]
    inside = package / "shipped"
    return inside if inside.is_dir() else package.parent


def make_home(config: Config) -> None:
    """Make the folders etui writes to.

    Raises:
        EtuiError: The home cannot be made or is not writable.
    """
    try:
        config.home.mkdir(parents=True, exist_ok=True)
        config.log_dir.mkdir(exist_ok=True)
    except OSError as error:
        raise EtuiError(
            f"cannot write to ETUI_HOME {config.home}: {error.strerror or error}",
            "make the folder writable, or set ETUI_HOME to one that is",
        ) from error
    if not os.access(config.home, os.W_OK | os.X_OK):
        raise EtuiError(
            f"cannot write to ETUI_HOME {config.home}",
            "make the folder writable, or set ETUI_HOME to one that is",
        )
