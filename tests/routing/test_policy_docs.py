"""The page about policies says what the code does."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import click
import pytest

from etui.cli.main import cli
from etui.config.config import Config
from etui.models.catalogue import load_catalogue
from etui.routing.library import check_text
from etui.routing.probes import run_probes
from etui.routing.schema.policy_file import (
    BudgetsEntry,
    FallbacksEntry,
    PeriodBudgetEntry,
    ProbeEntry,
    TurnBudgetEntry,
)
from etui.routing.schema.rules import (
    AccuracyFloor,
    ArmEntry,
    CascadeEntry,
    ObjectiveEntry,
    RuleEntry,
)
from etui.routing.schema.signals import MetadataEntry, NearestEntry
from etui.routing.signals import HostState
from etui.routing.text_measures import MEASURES, TEXT_LIMIT
from etui.runtime.overrides import THINK_TOKENS
from etui.yaml.named_files import NamedFile

CHECKOUT = Path(__file__).parents[2]
PAGE = (CHECKOUT / "docs" / "policies.md").read_text(encoding="utf-8")


def policies_in(document: str) -> Iterable[str]:
    return re.findall(r"```yaml\n(version: 1\n.*?)```", document, re.DOTALL)


@pytest.mark.parametrize("document", ["README.md", "docs/policies.md"])
def test_the_policies_shown_are_sound(document: str, config: Config) -> None:
    texts = list(policies_in((CHECKOUT / document).read_text(encoding="utf-8")))
    assert texts
    for text in texts:
        place = NamedFile("shown", Path(document), "file")
        checked = check_text(text, place, load_catalogue(config).models)
        assert checked.policy is not None, checked.errors
        assert not any(outcome.failures for outcome in run_probes(checked.policy))


def test_every_key_is_on_the_page() -> None:
    entries = (ArmEntry, ProbeEntry, CascadeEntry, ObjectiveEntry, AccuracyFloor, RuleEntry)
    entries += (BudgetsEntry, TurnBudgetEntry, PeriodBudgetEntry, FallbacksEntry, NearestEntry)
    entries += (MetadataEntry,)
    keys = [
        *MEASURES,
        *(field.name for field in fields(HostState)),
        *(key for entry in entries for key in entry.model_fields),
    ]
    assert [key for key in keys if not re.search(rf"\b{key}\b", PAGE)] == []
    assert f"{TEXT_LIMIT:,}" in PAGE


def test_the_ladder_of_efforts_on_the_page_is_that_of_the_code() -> None:
    names = " | ".join(f"`{effort}`" for effort in THINK_TOKENS)
    tokens = " | ".join(str(count) for count in THINK_TOKENS.values())
    assert f"| effort | {names} |" in PAGE
    assert f"| thinking tokens, at most | {tokens} |" in PAGE


@pytest.mark.parametrize("document", ["docs/policies.md", "docs/learning.md"])
def test_the_commands_shown_have_what_they_need(document: str) -> None:
    """Each command of a code block is parsed as the command line parses it."""
    text = (CHECKOUT / document).read_text(encoding="utf-8")
    blocks = re.findall(r"```\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("etui ")]
    assert lines
    for line in lines:
        words = shlex.split(re.split(r"\s{4,}|\s>> ", line)[0])[1:]
        command: click.Command = cli
        while isinstance(command, click.Group) and not words[0].startswith("-"):
            name, *words = words
            found = command.get_command(click.Context(command), name)
            assert found is not None, line
            command = found
        context = command.make_context(command.name, words)
        if command.name == "bench":
            assert any(context.params[key] for key in ("suite", "design", "resume")), line
