"""The models of models.yaml and of the models folder, as the app pulls and checks them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from etui.config import Config
from etui.download import Progress, Report
from etui.tui.backend import ModelOnOffer

if TYPE_CHECKING:
    from etui.models import Verified


class ModelShelf:
    """See :class:`etui.tui.backend.Shelf`."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def models(self) -> Sequence[ModelOnOffer]:
        """Every model that has a name, looked up anew: another etui may have pulled one."""
        from etui.choice import on_this_machine
        from etui.models import load_catalogue

        catalogue = load_catalogue(self._config)
        here = on_this_machine(self._config, catalogue)
        return [ModelOnOffer(spec.name, spec.size, here(spec.name)) for spec in catalogue]

    def pull(self, name: str, report: Report) -> None:
        """Download and verify a model."""
        from etui.download import pull
        from etui.models import load_catalogue

        pull(load_catalogue(self._config).get(name), self._config, report)

    def verify(self, name: str, report: Report) -> Verified:
        """Hash the whole file of a model, whatever was recorded before."""
        from etui.models import load_catalogue, model_path, verify

        spec = load_catalogue(self._config).get(name)
        path = model_path(spec, self._config)
        size = path.stat().st_size if path.is_file() else None

        def hashed(done: int) -> None:
            report(Progress(name, "verify", str(path), done, size))

        return verify(spec, self._config, hashed)
