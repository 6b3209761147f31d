"""The model catalogue: shipped entries, the user's entries, and files found on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from etui.errors import UsageError
from etui.models.files import build_found_spec, read_entries
from etui.models.spec import HubSource, ModelSpec, PathSource
from etui.models.tuned import TunedUse, apply_tuned
from etui.text import suggest

if TYPE_CHECKING:
    from etui.config.config import Config


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Every model by name: shipped entries, the user's in place of those, then found files."""

    models: Mapping[str, ModelSpec]
    tuned: Mapping[str, TunedUse] = field(default_factory=dict)
    """Name -> the settings that a sweep chose for it, and what of them is used."""
    problem: str = ""  # Why no such settings are used at all (a damaged file); empty if they can be

    def __iter__(self) -> Iterator[ModelSpec]:
        return iter(self.models.values())

    def __contains__(self, name: object) -> bool:
        return name in self.models

    def get(self, name: str) -> ModelSpec:
        """Return the entry with a name, or a model for the path of a GGUF file.

        UsageError with the nearest names, or if the file has the name of another model.
        """
        if name in self.models:
            return self.models[name]
        if name.endswith(".gguf") and Path(name).expanduser().is_file():
            return self._from_path(Path(name).expanduser().absolute())
        if (known := self.find_hub_model(name)) is not None:
            return known
        if "/" in name and not Path(name).exists():
            from etui.models.repository import parse_reference

            fix = (
                f"add it with: etui models pull {name}"
                if parse_reference(name)
                else "write a repository of the hub as OWNER/REPO or OWNER/REPO:QUANTISATION"
            )
            raise UsageError(f"no model is called {name!r}", fix)
        near = suggest(name.lower(), self.models, most=3, cutoff=0.5, quoted=False)
        fix = f"{near} `etui models list` shows all of them".lstrip()
        raise UsageError(f"no model is called {name!r}", fix)

    def find_hub_model(self, text: str) -> ModelSpec | None:
        """Find the only entry of ``OWNER/REPO`` or ``OWNER/REPO:Q8_0``, without asking the hub."""
        from etui.models.repository import HubReference, find_label, parse_reference

        wanted = parse_reference(text) if "/" in text else None
        if not isinstance(wanted, HubReference):
            return None
        label = wanted.label.lower()
        found = [
            spec
            for spec in self
            for source in spec.sources
            if isinstance(source, HubSource)
            and not spec.adapters
            and (source.repo.lower(), source.revision) == (wanted.repo.lower(), wanted.revision)
            and label in ("", source.file.lower(), find_label(source.file).lower())
        ]
        return found[0] if len(found) == 1 else None

    def _from_path(self, path: Path) -> ModelSpec:
        named = self.models.get(path.stem)
        if named is None:
            return build_found_spec(path)
        if named.origin == "found" and PathSource(path) in named.sources:
            return named
        raise UsageError(
            f"{path} has the name of another model, {path.stem}",
            "rename the file, or add an entry for it to models.yaml with a `path:` source",
        )


def load_catalogue(config: Config) -> Catalogue:
    """Load all entries, with what sweeps chose on this machine; InvalidFile if one is not valid."""
    entries = read_entries(config)
    if not config.tuned_file.exists():
        return Catalogue(entries)
    return Catalogue(*apply_tuned(entries, config))
