"""Settings that sweeps chose for models on this machine, and what of them is used.

They are kept in ``ETUI_HOME/tuned.json``, apart from models.yaml, which belongs to the user. They
apply where the catalogue is loaded, so that every front end runs a model with the same settings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from etui.atomic import write_text
from etui.codec import to_document
from etui.config.machine import machine_name
from etui.errors import HOME_FIX, InvalidFile, writing
from etui.models.files import content_sha256
from etui.models.spec import TUNED_KEYS, ModelSpec, TunedBy, TunedKey, TunedSettings, TunedValue

if TYPE_CHECKING:
    from etui.config.config import Config

_WITHOUT_VALUE = "auto"
"""TunedValue of a key that neither the entry nor config.yaml sets."""


@dataclass(frozen=True, slots=True)
class TunedUse:
    """What of a model's tuned settings is used."""

    settings: TunedSettings
    values: Mapping[TunedKey, TunedValue] = field(default_factory=dict)
    """Those that replace the values of the entry now."""
    edited: Mapping[TunedKey, TunedValue] = field(default_factory=dict)
    """Key -> value of models.yaml or config.yaml, where it was changed after the sweep: the later
    decision of the user is followed."""
    why_not: str = ""  # Why none of the values is used; empty if they can be


def load_tuned(config: Config) -> tuple[TunedSettings, ...]:
    """Read the tuned settings of all models and machines; none without a file, or InvalidFile."""
    if not config.tuned_file.exists():
        return ()
    from etui.models.schema import read_tuned  # pydantic takes 100 ms to import

    return read_tuned(config.tuned_file)


def save_tuned(config: Config, settings: TunedSettings) -> None:
    """Save the tuned settings of a model on a machine, in place of earlier ones.

    InvalidFile if the file is damaged, and is left as it is.
    """
    of = settings.model, settings.machine
    kept = [one for one in load_tuned(config) if (one.model, one.machine) != of]
    _write(config, [*kept, settings])


def remove_tuned(config: Config, model: str) -> TunedSettings | None:
    """Remove the tuned settings of a model on this machine; return them, None without any.

    InvalidFile if the file is damaged, and is left as it is.
    """
    every, machine = load_tuned(config), machine_name()
    removed = [one for one in every if one.model == model and one.machine == machine]
    if not removed:
        return None
    _write(config, [one for one in every if one not in removed])
    return removed[-1]


def read_entry_values(spec: ModelSpec, config: Config) -> dict[TunedKey, TunedValue]:
    """Return what an entry and config.yaml set for every key; ``auto`` where they leave it open."""
    values: dict[TunedKey, TunedValue] = {}
    for key in TUNED_KEYS:
        value = getattr(spec, key)
        if value is None and key == "threads":
            value = config.threads
        if value is None:
            value = "off" if key == "speculate" else _WITHOUT_VALUE
        values[key] = value
    return values


def apply_tuned(
    models: Mapping[str, ModelSpec], config: Config
) -> tuple[Mapping[str, ModelSpec], Mapping[str, TunedUse], str]:
    """Apply the tuned settings of this machine; nothing of a damaged file.

    Returns the entries, what is used of their settings, and why the file cannot be read, if so.
    """
    try:
        every = load_tuned(config)
    except InvalidFile as error:
        first = error.what.splitlines()[0]
        problem = f"the settings that sweeps chose are not used: {first}; fix or remove that file"
        return models, {}, problem
    machine = machine_name()
    uses: dict[str, TunedUse] = {}
    for settings in sorted(every, key=lambda one: one.machine == machine):  # this machine's last
        if settings.model in models and models[settings.model].backend is None:
            uses[settings.model] = check_use(settings, models[settings.model], config, machine)
    changed = {name: apply_use(models[name], use) for name, use in uses.items()}
    return {**models, **changed}, uses, ""


def check_use(settings: TunedSettings, spec: ModelSpec, config: Config, machine: str) -> TunedUse:
    """Check which tuned settings of a model can be used."""
    if settings.machine != machine:
        return TunedUse(settings, why_not=f"they are of another machine ({settings.machine})")
    sha256 = content_sha256(spec, config)
    if sha256 is None:
        return TunedUse(
            settings,
            why_not=f"the hash of the file is not known; run: etui models verify {spec.name}",
        )
    if sha256 != settings.sha256:
        return TunedUse(settings, why_not="the model's file is another one now")
    now = read_entry_values(spec, config)
    edited = {key: now[key] for key, value in settings.entry.items() if now[key] != value}
    values = {key: value for key, value in settings.values.items() if key not in edited}
    problem = _find_conflict(replace(spec, **_as_fields(values)))
    if problem:
        return TunedUse(settings, edited=edited, why_not=problem)
    return TunedUse(settings, values, edited)


def apply_use(spec: ModelSpec, use: TunedUse) -> ModelSpec:
    """Replace values of an entry by those of a sweep."""
    if not use.values:
        return spec
    by = TunedBy(use.settings.sweep, tuple(use.values.items()))
    return replace(spec, **_as_fields(use.values), tuned=by)


def describe_values(values: Mapping[TunedKey, TunedValue]) -> str:
    """Write settings in one line: ``threads=1 kv_type=q8_0``."""
    return " ".join(f"{key}={value}" for key, value in values.items())


def describe_use(use: TunedUse) -> tuple[str, ...]:
    """Describe what of a choice is used now, then what it saves, then what to do, a line each."""
    settings, day = use.settings, use.settings.created[:10]
    if use.why_not:
        state = f"not used ({describe_values(settings.values)}): {use.why_not}"
    else:
        state = describe_values(use.values) or "nothing differs from models.yaml"
    lines = [state, f"{settings.verdict} ({settings.goal}, sweep {settings.sweep}, {day})"]
    for key, value in use.edited.items():
        lines.append(
            f"{key}={value} is used, not {settings.values.get(key)}: "
            f"{_find_file(key)} was changed after the sweep"
        )
    if settings.power_limit is not None:
        limit = settings.power_limit
        lines.append(
            f"belongs to a power limit of {limit.watts:g} W, which etui does not keep: "
            f"{limit.command}"
        )
    return (*lines, *settings.notes)


def _find_file(key: TunedKey) -> str:
    return "models.yaml or config.yaml" if key == "threads" else "models.yaml"


def _as_fields(values: Mapping[TunedKey, TunedValue]) -> dict[str, Any]:
    fields: dict[str, Any] = {str(key): value for key, value in values.items()}
    if values.get("split") == "none":
        fields["tensor_split"] = ()  # there is nothing to share
    return fields


def _find_conflict(spec: ModelSpec) -> str:
    if spec.flash_attention == "off" and spec.kv_type != "f16":
        return f"kv_type {spec.kv_type} needs flash attention, which models.yaml turns off"
    if spec.speculate == "draft" and spec.draft is None:
        return "speculate=draft needs a draft model, and models.yaml names none"
    return ""


def _write(config: Config, every: Sequence[TunedSettings]) -> None:
    """Write the file, or remove it with the last settings: without it nothing is read."""
    document = {"tuned": [_build_document(one) for one in every]}
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    with writing(config.tuned_file, HOME_FIX):
        config.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if every:
            write_text(config.tuned_file, text, errors="replace")
        else:
            config.tuned_file.unlink(missing_ok=True)


def _build_document(settings: TunedSettings) -> dict[str, Any]:
    document: dict[str, Any] = to_document(settings)
    return {name: value for name, value in document.items() if value not in (None, (), [])}
