"""Load the Config of an environment, with the user's ``config.yaml`` laid over it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from etui.config.config import Config


def load_config(environ: Mapping[str, str] = os.environ) -> Config:
    """Load the Config of an environment.

    Args:
        environ: Variables of the environment; ``ETUI_HOME``, ``ETUI_MODELS`` and ``ETUI_SYSFS``
            name folders.

    Returns:
        The Config, with the settings of ``config.yaml`` if there is one.

    Raises:
        InvalidFile: ``config.yaml`` holds an unknown key or a value that does not fit.
    """
    home = _home(environ)
    models = environ.get("ETUI_MODELS")
    config = Config(
        home=home,
        models_dir=Path(models).expanduser().absolute() if models else home / "models",
        sysfs_dir=Path(environ.get("ETUI_SYSFS") or "/sys"),
    )
    return apply_settings(config)


def apply_settings(config: Config) -> Config:
    """Lay what ``config.yaml`` sets over a Config; unchanged where there is no such file.

    Raises:
        InvalidFile: The file holds an unknown key or a value that does not fit.
    """
    if not config.config_file.is_file():
        return config
    from etui.config.schema import Settings  # 100 ms of pydantic, only with a file to check
    from etui.yaml.load import load_yaml

    settings = load_yaml(config.config_file, Settings).model
    changes = {name: getattr(settings, name) for name in settings.model_fields_set}
    return replace(config, **changes)


def _home(environ: Mapping[str, str]) -> Path:
    named = environ.get("ETUI_HOME")
    if named:
        return Path(named).expanduser().absolute()
    from platformdirs import user_data_path

    return user_data_path("etui")
