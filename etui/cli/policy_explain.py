"""``etui policy explain``: explain which arm would answer a question, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from etui.cli.common import print_json, print_table
from etui.cli.param_types import TEXT
from etui.errors import UsageError

if TYPE_CHECKING:
    from etui.runtime.explain import Explanation


@click.command()
@click.argument("query", type=TEXT)
@click.option(
    "--policy", "name", type=TEXT, metavar="NAME|FILE", help="Default: the policy of config.yaml."
)
@click.option(
    "--metadata",
    "metadata",
    type=TEXT,
    metavar="KEY=VALUE",
    multiple=True,
    help="Metadata of a request of `etui serve`; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def explain(query: str, name: str | None, metadata: tuple[str, ...], as_json: bool) -> None:
    """Explain which arm would answer, and why.

    Shows every signal with its value and its distance from the threshold, every rule that was
    tried, and the predicted joules and accuracy of each candidate.

    No model is loaded, so this works even before a model is on this machine.
    """
    from etui.chat import Query
    from etui.cli.prompt_input import read_question
    from etui.config.load import load_config
    from etui.routing.library import load_policy
    from etui.runtime import explain as explaining
    from etui.runtime.open import open_runtime

    query = read_question(query, None, is_terminal=True)
    config = load_config()
    with open_runtime(config) as runtime:
        policy = load_policy(name or config.policy, config, runtime.catalogue.models)
        asked = Query(query, metadata=_parse_metadata(metadata))
        document = explaining.explain(asked, policy, runtime)
    if as_json:
        print_json(document)
    else:
        _print_explanation(document)
    if not document["on_disk"]:
        from etui.runtime.explain_text import find_machine

        model, machine = document["model"], find_machine(document)
        if machine is not None:
            click.echo(f"{model} on {machine} is not available; see `etui doctor`", err=True)
        else:
            click.echo(f"{model} is not on this machine; run `etui models pull {model}`", err=True)


def _parse_metadata(given: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Parse ``KEY=VALUE``; a key that is repeated has its last value."""
    found: dict[str, str] = {}
    for entry in given:
        key, equals, value = entry.partition("=")
        if not key or not equals:
            raise UsageError(f"--metadata {entry!r} is not KEY=VALUE", "as in --metadata team=lab")
        found[key] = value
    return tuple(found.items())


def _print_explanation(document: Explanation) -> None:
    from etui.runtime.explain_text import (
        CANDIDATE_HEAD,
        RULE_HEAD,
        SIGNAL_HEAD,
        candidate_rows,
        explained_facts,
        joules_sources,
        rule_rows,
        signal_rows,
    )

    for label, text in explained_facts(document):
        click.echo(f"{label:<10} {text}")
    if candidates := candidate_rows(document):
        click.echo()
        print_table(CANDIDATE_HEAD, candidates)
        for source in joules_sources(document):
            click.echo(source)
    if signals := signal_rows(document):
        click.echo()
        print_table(SIGNAL_HEAD, signals)
    click.echo()
    print_table(RULE_HEAD, rule_rows(document))
