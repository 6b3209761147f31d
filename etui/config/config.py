"""Folders and user settings, in one frozen Config that is passed around."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from etui.config.backend_spec import BackendSpec, WallMeterSpec
from etui.errors import HOME_FIX, EtuiError

if TYPE_CHECKING:
    from etui.config.schema import TariffEntry, ToolsEntry


def load_config(environ: Mapping[str, str] = os.environ) -> Config:
    """Load the Config from the environment and ``config.yaml``.

    InvalidFile if that file has an unknown key or an invalid value.
    """
    return apply_settings(find_folders(environ))


def find_folders(environ: Mapping[str, str] = os.environ) -> Config:
    """Return the Config of the environment alone, with the default of every setting."""
    home = _find_home(environ)
    models = environ.get("ETUI_MODELS")
    return Config(
        home=home,
        models_dir=Path(models).expanduser().absolute() if models else home / "models",
        sysfs_dir=Path(environ.get("ETUI_SYSFS") or "/sys"),
    )


def apply_settings(config: Config) -> Config:
    """Return a Config with the settings of its ``config.yaml``; unchanged without such a file."""
    if not config.config_file.is_file():
        return config
    from etui.config.schema import Settings  # pydantic takes 100 ms to import
    from etui.yaml.load import load_yaml

    settings = load_yaml(config.config_file, Settings).model
    changes = {name: getattr(settings, name) for name in settings.model_fields_set}
    if changes.get("threads") == "auto":
        changes["threads"] = None
    if "keep_warm_seconds" in changes:
        changes["keep_warm"] = changes.pop("keep_warm_seconds") or "always"
    if "backends" in changes:
        entries = settings.backends.items()
        changes["backends"] = {name: entry.spec(name) for name, entry in entries}
    if "wall_meters" in changes:
        meters = settings.wall_meters.items()
        changes["wall_meters"] = {name: entry.spec(name) for name, entry in meters}
    return replace(config, **changes)


def edit_settings(config: Config, edit: Callable[[str], str], by_hand: str) -> None:
    """Change the text of ``config.yaml`` by a function of :mod:`etui.yaml.edit`.

    Args:
        by_hand: The line that the user can write there where it cannot be written.

    Raises:
        EtuiError: The file cannot be read or written, or its style does not allow the change.
    """
    from etui.atomic import write_text
    from etui.yaml.tree import YamlError

    path = config.config_file.resolve()  # what a link leads to
    old = path if path.exists() else None
    try:
        text = "" if old is None else old.read_bytes().decode()  # its line ends stay
        write_text(path, edit(text), like=old)
    except (OSError, ValueError, YamlError) as error:
        reason = getattr(error, "strerror", None) or error
        fix = f"write it there yourself: {by_hand}"
        raise EtuiError(f"cannot write {path}: {reason}", fix) from error


def read_defaults(config: Config) -> tuple[str, str | None]:
    """Read which policy and which model answer where none is named, from ``config.yaml``."""
    own = apply_settings(Config(home=config.home, models_dir=config.models_dir))
    return own.policy, own.model


def _find_home(environ: Mapping[str, str]) -> Path:
    named = environ.get("ETUI_HOME")
    if named:
        return Path(named).expanduser().absolute()
    from platformdirs import user_data_path

    return user_data_path("etui")


@dataclass(frozen=True, slots=True)
class Config:
    """Folders and settings, from the environment and ``config.yaml``.

    Attributes:
        cpu_idle_watts, cpu_limit_watts: Range of the CPU power estimate on a machine without
            power readings; None uses a documented default for the number of cores.
    """

    home: Path  # Folder for config, data and logs (`ETUI_HOME`, else the platform's data folder)
    models_dir: Path  # Folder for model files (`ETUI_MODELS`, else `models` in home)
    sysfs_dir: Path = Path("/sys")  # Root of every sysfs read (`ETUI_SYSFS`, else `/sys`)
    policy: str = "balanced"  # Policy that routes when none is named
    model: str | None = None
    """Model that answers every question without a policy; None leaves it to the policy."""
    threads: int | None = None
    """Number of llama.cpp threads; None (``auto``) uses at most the number of physical cores, and
    fewer while other processes use them."""
    context_tokens: int | None = None
    """Upper limit on a context in tokens, to save memory; None uses the model's."""
    keep_warm: float | Literal["auto", "always"] = "always"
    """How long the app keeps a model in memory after its last answer, in seconds; ``always`` keeps
    it until another model needs the memory, ``auto`` until idling has cost more joules than loading
    it again (:mod:`etui.energy.keep_warm`)."""
    loop_guard: bool = True
    """Whether an answer that repeats itself is ended, unless its arm decides."""
    name_chats: bool = False
    """Whether the smallest model may name chats in their list, which costs joules each time."""
    cache: Literal["on", "off"] = "on"
    """Whether KV caches of chats that have left the context are kept in memory and on disk."""
    cache_disk_gb: float = 2.0
    """The most gigabytes of them on disk, at most a tenth of what is free; 0 keeps none there."""
    sample_hz: float = 20.0  # Readings per second of every power channel
    cpu_idle_watts: float | None = None
    cpu_limit_watts: float | None = None
    estimate: str = "auto"
    """``auto`` estimates only if nothing can be measured, ``always`` adds the estimate to the
    measured channels, ``never`` leaves the energy unmeasured."""
    carbon_g_per_kwh: float | None = None
    """Grams of CO2 equivalent per kilowatt-hour; None shows no carbon."""
    price_per_kwh: float | None = None
    """Price of a kilowatt-hour in ``currency``; None shows no cost."""
    currency: str = ""
    tariff: TariffEntry | None = None
    """Prices and carbon by time, which go before the two above (:mod:`etui.energy.tariff`)."""
    pue: float = 1.0
    """Power usage effectiveness of the place, at least 1; joules are not multiplied by it."""
    theme: str = "etui-dark"  # Theme of the app: `etui-dark`, `etui-light`, or one of Textual's
    panel_columns: int | None = None
    """Width of the panel beside the chat; None leaves it to the width of the terminal."""
    quiet: bool = False  # Whether the app starts in quiet mode, which redraws less often
    ascii: Literal["auto", "always", "never"] = "auto"
    """``auto`` draws with ASCII if the locale cannot show Unicode; ``always`` and ``never``
    override that."""
    keymap: Mapping[str, str] = field(default_factory=dict)
    """Binding id -> keys, to rebind keys of the app."""
    backends: Mapping[str, BackendSpec] = field(default_factory=dict)
    wall_meters: Mapping[str, WallMeterSpec] = field(default_factory=dict)
    """Plugs and sensors that measure the whole machine at the wall."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Name that clients of ``etui serve`` use -> the policy, arm or model that answers; a ``*`` in
    it matches any text."""
    tools: ToolsEntry | None = None
    """Tools that a model may call, and the limits of a question; None for those of etui itself."""
    tool_permissions: Mapping[str, Literal["allow", "ask", "deny"]] = field(default_factory=dict)
    """Name or pattern of a tool -> whether it may run; others ask before each call."""
    parallel: int = 1  # Number of answers of one model that the engine computes at a time

    @property
    def has_rates(self) -> bool:
        """Whether prices or carbon are stated, so that there is a tariff."""
        return (self.price_per_kwh, self.carbon_g_per_kwh, self.tariff) != (None, None, None)

    @property
    def database(self) -> Path:
        """The SQLite log."""
        return self.home / "etui.db"

    @property
    def power_limits_file(self) -> Path:
        """The journal of changed power limits; it exists only while some may be changed."""
        return self.home / "power_limits.json"

    @property
    def tuned_file(self) -> Path:
        """The settings that sweeps chose for models; etui writes it."""
        return self.home / "tuned.json"

    @property
    def log_dir(self) -> Path:
        """Folder for log files of llama.cpp and of the engine process."""
        return self.home / "logs"

    @property
    def engines_dir(self) -> Path:
        """Folder of the builds of llama.cpp that ``etui engine build`` made."""
        return self.home / "engines"

    @property
    def kv_dir(self) -> Path:
        """Folder of the KV caches on disk."""
        return self.home / "cache" / "kv"

    @property
    def policies_dir(self) -> Path:
        """Folder of the user's policies; one of the same name replaces a shipped policy."""
        return self.home / "policies"

    @property
    def models_file(self) -> Path:
        """The user's model entries; one of the same name replaces a shipped entry."""
        return self.home / "models.yaml"

    @property
    def catalogue_file(self) -> Path:
        """A newer catalogue than the shipped one, which the user accepted."""
        return self.home / "catalogue.yaml"

    @property
    def config_file(self) -> Path:
        """The user's settings."""
        return self.home / "config.yaml"


def shipped_dir() -> Path:
    """Find the folder with the shipped ``models.yaml``, policies, prompts and designs."""
    package = Path(__file__).parents[1]
    inside = package / "shipped"
    return inside if inside.is_dir() else package.parent


def make_home(config: Config) -> None:
    """Create the folders etui writes to, for this user alone.

    EtuiError if they cannot be created or written.
    """
    what = f"cannot write to ETUI_HOME {config.home}"
    try:
        config.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        config.log_dir.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise EtuiError(f"{what}: {error.strerror or error}", HOME_FIX) from error
    if not os.access(config.home, os.W_OK | os.X_OK):
        raise EtuiError(what, HOME_FIX)
