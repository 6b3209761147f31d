"""Keep what was read from the files of models, as long as they have not changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from etui.errors import EtuiError
from etui.runtime.file_cache import FileCache
from etui.runtime.serving import find_model_file, read_file_sampling

if TYPE_CHECKING:
    from etui.arm import Arm
    from etui.config.config import Config
    from etui.models.catalogue import Catalogue
    from etui.models.spec import ModelSampling, ModelSpec


class ModelFiles:
    """Facts of model files by model; safe to use from several threads.

    Hashing a file takes seconds and reading its header tens of milliseconds; comparing the states
    of files takes some microseconds.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._checked: FileCache[tuple[ModelSpec, Path]] = FileCache()
        self._sampling: FileCache[ModelSampling | None] = FileCache()
        self._contexts: FileCache[int | None] = FileCache()

    def find(self, arm: Arm, catalogue: Catalogue) -> tuple[ModelSpec, Path]:
        """Find the file of an arm's model; one that was checked is not until it changes.

        Its record in the models folder says so too, but that folder may be read-only.

        Raises:
            ModelUnavailable: The file is missing, damaged, or has another sha256.
        """
        from etui.models.files import record_path

        def list_files(found: tuple[ModelSpec, Path]) -> tuple[str, str]:
            return str(found[1]), str(record_path(arm.model, self._config.models_dir))

        return self._checked.get(
            catalogue.get(arm.model),
            lambda: find_model_file(arm, self._config, catalogue),
            list_files,
        )

    def read_sampling(self, path: Path) -> ModelSampling | None:
        """Read what a model file asks for, once for each state of it."""
        return self._sampling.get(path, lambda: read_file_sampling(path), lambda _: (str(path),))

    def find_context_tokens(self, model: str, catalogue: Catalogue) -> int | None:
        """Return the context of a model as it would be loaded, in tokens; None if it is unknown.

        The header of a file is read once for each state of it: that takes tens of milliseconds.
        """
        from etui.models.files import model_path

        spec = catalogue.models.get(model)
        if spec is None or spec.backend is not None:
            return (spec.context or None) if spec is not None else None
        path = model_path(spec, self._config)
        return self._contexts.get(
            (spec, path), lambda: self._read_context(spec, path), lambda _: (str(path),)
        )

    def _read_context(self, spec: ModelSpec, path: Path) -> int | None:
        from etui.engine.load_settings import choose_context_tokens
        from etui.models.gguf import check_gguf

        try:
            return choose_context_tokens(self._config, spec, check_gguf(path))
        except EtuiError:
            return spec.context or None
