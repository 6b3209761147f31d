"""``etui ask``: answer one question; the answer goes to stdout, its energy cost to stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from threading import Event
from typing import TYPE_CHECKING, Any

import click

from etui.cli.common import print_json, stop_signals
from etui.cli.param_types import TEXT, FiniteNumber, WholeNumber
from etui.errors import ExitCode

if TYPE_CHECKING:
    from etui.chat import Query
    from etui.runtime.overrides import Overrides
    from etui.turn.events import TurnEvent
    from etui.turn.record import TurnRecord


@click.command()
@click.argument("prompt", type=TEXT, required=False)
@click.option(
    "-m", "--model", type=TEXT, metavar="NAME", help="Model that answers, without a policy."
)
@click.option("-p", "--policy", type=TEXT, metavar="NAME|FILE", help="Policy that chooses the arm.")
@click.option(
    "-a", "--arm", type=TEXT, metavar="NAME", help="Arm of the policy; its rules are skipped."
)
@click.option(
    "-r",
    "--reasoning",
    type=click.Choice(["direct", "cot", "vote"]),
    help="Reasoning method: direct, chain of thought, or majority vote.",
)
@click.option(
    "--think-tokens",
    type=WholeNumber(0, 100_000),
    metavar="N",
    help="Maximum number of thinking tokens.",
)
@click.option(
    "--votes",
    type=WholeNumber(1, 64),
    metavar="N",
    help="Maximum number of votes (default: the policy's, or 7).",
)
@click.option(
    "--stop",
    type=click.Choice(["all", "lead", "flip", "adaptive"]),
    help="When to stop voting: after all votes, when the remaining votes cannot change the result "
    "(lead), or when a change is unlikely (flip, the default; adaptive).",
)
@click.option(
    "--style",
    type=click.Choice(["auto", "plain", "draft", "native"]),
    help="How the model is asked to think.",
)
@click.option(
    "--max-tokens",
    type=WholeNumber(1, 100_000),
    metavar="N",
    help="Maximum number of answer tokens, thinking not included.",
)
@click.option(
    "-t",
    "--temperature",
    type=FiniteNumber(0, 5),
    metavar="T",
    help="Sampling temperature; 0 picks the most likely token. Default: what the model asks for, "
    "else 0, for votes 0.7.",
)
@click.option("--seed", type=WholeNumber(0, 2**32 - 1), metavar="N", help="Sampling seed.")
@click.option(
    "--speculate",
    type=click.Choice(["off", "lookup", "draft", "mtp", "auto"]),
    help="Where drafted tokens come from: the prompt and the answer so far (lookup), the model's "
    "draft model, its own heads (mtp), or whatever pays (auto). Default: the policy's or the "
    "model's, or off.",
)
@click.option(
    "--loop-guard/--no-loop-guard",
    default=None,
    help="End an answer that repeats itself, or let it go on to its last token (default: on).",
)
@click.option("-s", "--system", type=TEXT, metavar="TEXT", help="System prompt.")
@click.option(
    "--over-budget", is_flag=True, help="Do not ask when an hourly or daily budget is spent."
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document instead of streaming."
)
@click.option("-q", "--quiet", is_flag=True, help="Print the answer only.")
def ask(
    prompt: str | None,
    system: str | None,
    as_json: bool,
    quiet: bool,
    **overrides: Any,
) -> int:
    """Answer one question and show what it cost.

    Standard input is appended to the prompt. The answer streams to stdout; the thinking, the
    routing reason and the cost (tokens, tok/s, time to first token, joules with their uncertainty
    and kind, joules per token, mean watts) go to stderr.

    \b
    etui ask "What is a joule?"
    etui ask --reasoning cot --think-tokens 128 "What is 17 * 23?"
    git diff | etui ask "Write a commit message for this change" --quiet
    """  # noqa: D301
    from etui.chat import Query
    from etui.cli.prompt_input import open_standard_input, read_question
    from etui.runtime.overrides import Overrides

    stdin, is_terminal = open_standard_input()
    question = read_question(prompt, stdin, is_terminal=is_terminal)
    show = _print_document
    if not as_json:
        from etui.cli.ask_text import AskText

        show = AskText(question, quiet=quiet).show
    confirm = _confirm if is_terminal and sys.stderr.isatty() else None
    record = _answer(Query(question, system=system or None), Overrides(**overrides), show, confirm)
    return ExitCode.PARTIAL if record.status == "stopped" else ExitCode.DONE


def _confirm(question: str) -> bool:
    return click.confirm(question, err=True)


def _answer(
    query: Query,
    overrides: Overrides,
    show: Callable[[TurnEvent], None],
    confirm: Callable[[str], bool] | None,
) -> TurnRecord:
    from etui.config.config import make_home
    from etui.config.load import load_config
    from etui.runtime.choose import choose
    from etui.runtime.host import read_host
    from etui.runtime.open import open_runtime
    from etui.runtime.serving import refit_curve
    from etui.turn.events import TurnFinished

    config = load_config()
    make_home(config)
    stopped = Event()
    record = None
    with open_runtime(config) as runtime:
        choice = choose(query, overrides, runtime, lambda: read_host(config), confirm=confirm)
        runtime.writer.ready()
        with (
            stop_signals(stopped, runtime.backend.cancel),
            closing(runtime.run_turn(query, choice, cancelled=stopped.is_set)) as events,
        ):
            for event in events:
                if isinstance(event, TurnFinished):
                    record = event.record
                show(event)
        if record is not None:
            refit_curve(record, config, runtime.writer.save_curve)
    assert record is not None
    return record


def _print_document(event: TurnEvent) -> None:
    """Print the turn as one JSON document as soon as it has ended, even if the log then fails."""
    from etui.turn.events import TurnFinished

    if isinstance(event, TurnFinished):
        print_json(event.record.to_json())
