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
    """Load the Config from environment and ``config.yaml``; InvalidFile if that is not valid."""
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

    EtuiError with the line to write ``by_hand`` if its style or the disk does not allow it.
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
    """Folders, and the settings that :class:`etui.config.schema.Settings` describes."""

    home: Path  # Folder for config, data and logs (`ETUI_HOME`, else the platform's data folder)
    models_dir: Path  # Folder for model files (`ETUI_MODELS`, else `models` in home)
    sysfs_dir: Path = Path("/sys")  # Root of every sysfs read (`ETUI_SYSFS`, else `/sys`)
    policy: str = "balanced"  # Policy that routes when none is named
    model: str | None = None
    threads: int | None = None  # None is `auto`
    context_tokens: int | None = None
    keep_warm: float | Literal["auto", "always"] = "always"
    """Seconds, or as :mod:`etui.energy.keep_warm` says."""
    loop_guard: bool = True
    name_chats: bool = False
    cache: Literal["on", "off"] = "on"
    cache_disk_gb: float = 2.0
    sample_hz: float = 20.0
    cpu_idle_watts: float | None = None
    cpu_limit_watts: float | None = None
    estimate: str = "auto"
    carbon_g_per_kwh: float | None = None
    price_per_kwh: float | None = None
    currency: str = ""
    tariff: TariffEntry | None = None
    """Goes before the two prices above (:mod:`etui.energy.tariff`)."""
    pue: float = 1.0
    theme: str = "etui-dark"
    panel_columns: int | None = None
    quiet: bool = False
    ascii: Literal["auto", "always", "never"] = "auto"
    keymap: Mapping[str, str] = field(default_factory=dict)
    backends: Mapping[str, BackendSpec] = field(default_factory=dict)
    wall_meters: Mapping[str, WallMeterSpec] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    tools: ToolsEntry | None = None
    tool_permissions: Mapping[str, Literal["allow", "ask", "deny"]] = field(default_factory=dict)
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
    """Create the folders etui writes to, for this user alone; else EtuiError."""
    what = f"cannot write to ETUI_HOME {config.home}"
    try:
        config.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        config.log_dir.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise EtuiError(f"{what}: {error.strerror or error}", HOME_FIX) from error
    if not os.access(config.home, os.W_OK | os.X_OK):
        raise EtuiError(what, HOME_FIX)
