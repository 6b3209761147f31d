"""The settings of clients of ``etui serve``, with the address and the models of this machine."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template

from etui.codec import from_document


@dataclass(frozen=True, slots=True)
class ClientTemplate:
    """The settings that let one client use the server; see ``clients.toml``."""

    where: str
    path: str
    text: str
    key: str
    no_key: str = "none"

    def fill(self, root: str, model: str, models: Sequence[str], *, has_keys: bool) -> str:
        """Fill in the address of a server, what answers there by default, and all that can."""
        return Template(self.text).substitute(
            root=root,
            url=f"{root}/v1",
            model=model,
            coder=next((name for name in models if "coder" in name), model),
            models=json.dumps(models),
            models_object=json.dumps({name: {"name": name} for name in models}),
            key=self.key if has_keys else self.no_key,
        )


def read_clients() -> Mapping[str, ClientTemplate]:
    """Read the templates by the name of their client."""
    text = (files(__package__) / "clients.toml").read_text("utf-8")
    return {name: from_document(ClientTemplate, each) for name, each in tomllib.loads(text).items()}
