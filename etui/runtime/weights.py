"""Quantisations of the models on this machine, for the energy records of turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etui.errors import EtuiError

if TYPE_CHECKING:
    from etui.config.config import Config


def read_weights(config: Config) -> dict[str, str]:
    """Read the quantisation of every model file with a known hash, from its header.

    A damaged file or ``models.yaml`` is left out: an export must not fail because of it.

    Returns:
        Hash of a model's file -> quantisation of its weights.
    """
    from etui.models.catalogue import load_catalogue
    from etui.models.files import has_file, model_path, recorded_sha256
    from etui.models.gguf import check_gguf

    found: dict[str, str] = {}
    try:
        models = list(load_catalogue(config))
    except EtuiError:
        return found
    for spec in models:
        try:
            sha256 = spec.sha256 or recorded_sha256(spec, config)
            if sha256 is not None and spec.backend is None and has_file(spec, config):
                found[sha256] = check_gguf(model_path(spec, config)).quantisation
        except (EtuiError, OSError):
            continue
    return found
