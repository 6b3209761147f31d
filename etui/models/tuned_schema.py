"""Schema of tuned.json, the settings that sweeps chose."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from etui.arm import Speculate
from etui.errors import InvalidFile
from etui.models.schema import Threads
from etui.models.spec import (
    LEAST_BATCH_TOKENS,
    MOST_BATCH_TOKENS,
    MOST_DRAFT_TOKENS,
    TUNED_KEYS,
    FlashAttention,
    KvType,
    PowerAdvice,
    SplitMode,
    TunedKey,
    TunedSettings,
    TunedValue,
)
from etui.yaml.load import Strict, load_yaml, refuse

Line = Annotated[str, Field(max_length=4000)]
Name = Annotated[str, Field(min_length=1, max_length=1000)]


class TunedValues(Strict):
    """The values of one model."""

    threads: Threads | None = None
    prefill_threads: Threads | None = None
    batch_tokens: Annotated[int, Field(ge=LEAST_BATCH_TOKENS, le=MOST_BATCH_TOKENS)] | None = None
    kv_type: KvType | None = None
    flash_attention: FlashAttention | None = None
    gpu_layers: Annotated[int, Field(ge=0, le=100_000)] | Literal["auto", "all"] | None = None
    split: SplitMode | None = None
    speculate: Speculate | None = None
    draft_tokens: Annotated[int, Field(ge=1, le=MOST_DRAFT_TOKENS)] | None = None

    def values(self) -> dict[TunedKey, TunedValue]:
        """Return the values that are set, in the order of the keys."""
        return {key: value for key in TUNED_KEYS if (value := getattr(self, key)) is not None}


class PowerEntry(Strict):
    """A power limit, and how to set it."""

    watts: Annotated[float, Field(gt=0, le=100_000)]
    command: Line


class TunedEntry(Strict):
    """An entry as it is in the file, where errors name the line; ``TunedSettings`` in memory."""

    model: Name
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    machine: Name
    values: TunedValues
    entry: dict[str, str | int] = Field(default_factory=dict)
    sweep: Name
    created: Name
    goal: Name
    verdict: Line
    power_limit: PowerEntry | None = None
    notes: list[Line] = Field(default_factory=list)

    @field_validator("entry")
    @classmethod
    def _check_keys(cls, entry: dict[str, str | int]) -> dict[str, str | int]:
        for name in entry:
            if name not in TUNED_KEYS:
                refuse(f"entry: {name!r} is not a setting that a sweep can choose", name)
        return entry

    def settings(self) -> TunedSettings:
        """Convert the entry."""
        limit = self.power_limit
        names = ("model", "sha256", "machine", "sweep", "created", "goal", "verdict")
        return TunedSettings(
            **{name: getattr(self, name) for name in names},
            values=self.values.values(),
            entry={key: self.entry[key] for key in TUNED_KEYS if key in self.entry},
            power_limit=None if limit is None else PowerAdvice(limit.watts, limit.command),
            notes=tuple(self.notes),
        )


class TunedFile(Strict):
    """The whole file."""

    tuned: list[TunedEntry]


def read_tuned(path: Path) -> tuple[TunedSettings, ...]:
    """Read the file.

    Raises:
        InvalidFile: It cannot be read, or is not valid; the message says where and why.
    """
    try:
        located = load_yaml(path, TunedFile)  # JSON is YAML, and errors name the line
    except InvalidFile as error:
        fix = "fix the file there, or remove it to run every model as models.yaml says"
        raise InvalidFile(error.what, fix, error.problems) from error
    return tuple(entry.settings() for entry in located.model.tuned)
