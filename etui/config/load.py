"""Load the Config from the environment and the user's ``config.yaml``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from etui.config.config import Config


def load_config(environ: Mapping[str, str] = os.environ) -> Config:
    """Load the Config from the environment and ``config.yaml``.

    Args:
        environ: Environment variables; ``ETUI_HOME``, ``ETUI_MODELS`` and ``ETUI_SYSFS`` name
            folders.

    Raises:
        InvalidFile: ``config.yaml`` has an unknown key or an invalid value.
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
    """Return a Config with the settings of its ``config.yaml``; unchanged without such a file.

    Raises:
        InvalidFile: The file has an unknown key or an invalid value.
    """
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
    return replace(config, **changes)


def read_defaults(config: Config) -> tuple[str, str | None]:
    """Read which policy and which model answer where none is named, from ``config.yaml``.

    Raises:
        InvalidFile: The file has an unknown key or an invalid value.
    """
    own = apply_settings(Config(home=config.home, models_dir=config.models_dir))
    return own.policy, own.model


def _find_home(environ: Mapping[str, str]) -> Path:
    named = environ.get("ETUI_HOME")
    if named:
        return Path(named).expanduser().absolute()
    from platformdirs import user_data_path

    return user_data_path("etui")
