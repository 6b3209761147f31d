"""``etui ask``: answer one question; the answer goes to stdout, its energy cost to stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from etui.chat import Query
from etui.cli.output import print_json, stop_signals
from etui.cli.param_types import (
    TEXT,
    FiniteNumber,
    WholeNumber,
    choice_option,
    flag,
    number_option,
    text_option,
)
from etui.config.config import Config, load_config, make_home
from etui.errors import ExitCode, UsageError
from etui.prompts.attachments import (
    Attachment,
    Part,
    describe_excess,
    fit_attachments,
    join,
    list_pictures,
    read_attachment,
)
from etui.prompts.library import SavedPrompt, find_prompt
from etui.text import one_line

if TYPE_CHECKING:
    from etui.backends.base import Cancel
    from etui.runtime.decide import Choice
    from etui.runtime.overrides import Overrides
    from etui.runtime.runtime import Runtime
    from etui.tools.toolbox import Consent, Tool, Toolbox
    from etui.turn.events import TurnEvent
    from etui.turn.record import TurnRecord
    from etui.turn.run import Turn
    from etui.turn.tool_loop import ToolLoop


MAX_INPUT_BYTES = 10_000_000
"""Far more than any context holds; more is a mistake (a log file, a disk image)."""


@click.command()
@click.argument("prompt", type=TEXT, required=False)
@text_option("-m", "--model", metavar="NAME", help="Model that answers, without a policy.")
@text_option("-p", "--policy", metavar="NAME|FILE", help="Policy that chooses the arm.")
@text_option("-a", "--arm", metavar="NAME", help="Arm of the policy; its rules are skipped.")
@choice_option(
    ["direct", "cot", "vote"],
    "-r",
    "--reasoning",
    help="Reasoning method: direct, chain of thought, or majority vote.",
)
@number_option(WholeNumber(0, 100_000), "--think-tokens", help="Maximum number of thinking tokens.")
@number_option(
    WholeNumber(1, 64), "--votes", help="Maximum number of votes (default: the policy's, or 7)."
)
@choice_option(
    ["all", "lead", "flip", "adaptive"],
    "--stop",
    help="When to stop voting: after all votes, when the remaining votes cannot change the result "
    "(lead), or when a change is unlikely (flip, the default; adaptive).",
)
@choice_option(
    ["auto", "plain", "draft", "native"], "--style", help="How the model is asked to think."
)
@number_option(
    WholeNumber(1, 100_000),
    "--max-tokens",
    help="Maximum number of answer tokens, thinking not included.",
)
@number_option(
    FiniteNumber(0, 5),
    "-t",
    "--temperature",
    metavar="T",
    help="Sampling temperature; 0 picks the most likely token. Default: what the model asks for, "
    "else 0, for votes 0.7.",
)
@number_option(WholeNumber(0, 2**32 - 1), "--seed", help="Sampling seed.")
@choice_option(
    ["off", "lookup", "draft", "mtp", "auto"],
    "--speculate",
    help="Where drafted tokens come from: the prompt and the answer so far (lookup), the model's "
    "draft model, its own heads (mtp), or whatever pays (auto). Default: the policy's or the "
    "model's, or off.",
)
@click.option(
    "--loop-guard/--no-loop-guard",
    default=None,
    help="End an answer that repeats itself, or let it go on to its last token (default: on).",
)
@text_option(
    "-f",
    "--file",
    "files",
    multiple=True,
    metavar="FILE",
    help="Text file, or PNG or JPEG, that goes with the question; may be repeated.",
)
@choice_option(
    ["head", "tail", "ends"],
    "--part",
    help="What to keep of files that do not fit the context: their begin, their end, or both.",
)
@text_option(
    "--prompt",
    "saved",
    metavar="NAME",
    help="Saved prompt (ETUI_HOME/prompts/NAME.yaml); its text comes before PROMPT.",
)
@text_option(
    "--set",
    "values",
    multiple=True,
    metavar="VAR=VALUE",
    help="Value of a variable of the saved prompt; may be repeated.",
)
@text_option("-s", "--system", metavar="TEXT", help="System prompt.")
@flag("--tools", help="Let the model call tools: etui's own, and those of config.yaml.")
@flag("--over-budget", help="Do not ask when an hourly or daily budget is spent.")
@flag("--json", "as_json", help="Print one JSON document instead of streaming.")
@flag("-q", "--quiet", help="Print the answer only.")
def ask(
    prompt: str | None,
    files: tuple[str, ...],
    part: Part | None,
    saved: str | None,
    values: tuple[str, ...],
    system: str | None,
    as_json: bool,
    quiet: bool,
    tools: bool,
    **overrides: Any,
) -> int:
    """Answer one question and show what it cost.

    Standard input is appended to the prompt, and then each file in a fenced block. The answer
    streams to stdout; the thinking, the routing reason and the cost (tokens, tok/s, time to first
    token, joules with their uncertainty and kind, joules per token, mean watts) go to stderr.

    \b
    etui ask "What is a joule?"
    etui ask --reasoning cot --think-tokens 128 "What is 17 * 23?"
    git diff | etui ask "Write a commit message for this change" --quiet
    etui ask "What is wrong here?" -f main.py -f trace.txt
    etui ask --prompt review --set language=Python -f main.py
    etui ask --tools "What is 17 to the power of 23?"

    With --quiet the exit code is 4 if the answer was cut: at its limit of tokens, by a budget, or
    because it began to repeat itself.

    With --tools the model may call what `etui tools` lists. A call is shown and asked before it
    runs, unless config.yaml allows it; without a terminal only what is allowed there runs.
    """  # noqa: D301
    from etui.cli.ask_text import AskText
    from etui.runtime.overrides import Overrides
    from etui.turn.text import cut_text

    template = read_saved(saved, parse_values(values))
    if template is not None:
        prompt = "\n\n".join(text for text in (template.text, prompt) if text)
        system = system or template.system
        if template.arm is not None and not (overrides["arm"] or overrides["model"]):
            overrides["arm"] = template.arm
    stdin, is_terminal = open_standard_input()
    question = read_question(prompt, stdin, is_terminal=is_terminal)
    asked = _Question(
        question, system or None, [read_attachment(file) for file in files], part, saved
    )
    show = _print_document if as_json else AskText(asked.query.text, quiet=quiet).show
    asks = is_terminal and sys.stderr.isatty()
    confirm = partial(click.confirm, err=True) if asks else None
    record = _answer(asked, Overrides(**overrides), show, confirm, tools=tools)
    if record.status == "stopped":
        return ExitCode.PARTIAL
    if quiet and (cut := cut_text(record)):  # which nothing else says
        click.echo(f"etui: {cut}", err=True)
        return ExitCode.GATE
    return ExitCode.DONE


def ask_about_call(cancel: Cancel, tool: Tool, arguments: str) -> Consent:
    """Ask in the terminal whether a tool may run; Ctrl-C, or the end of the input, cancels."""
    whose = f" of the server {tool.server}" if tool.server else ""
    click.echo(f"{tool.name}{whose} is to run with {one_line(arguments)}", err=True)
    try:
        with stop_signals(Event()):  # that of the turn would wait for the answer
            said = click.prompt(
                "Run it? [y]es, [a]lways, [n]o, ne[v]er",
                type=click.Choice(["y", "a", "n", "v"]),
                default="n",
                show_choices=False,
                err=True,
            )
    except click.Abort:
        click.echo(err=True)
        cancel.cancel()
        return "no"
    answers: dict[str, Consent] = {"y": "once", "a": "always", "n": "no", "v": "never"}
    return answers[said]


@contextmanager
def _open_tools(
    config: Config, cancel: Cancel, *, may_ask: bool, wanted: bool
) -> Iterator[Toolbox | None]:
    """Open the tools that a question may use, and say which servers failed; None if unwanted."""
    from etui.tools.toolbox import Toolbox, remember_permission

    if not wanted:
        yield None
        return
    ask = partial(ask_about_call, cancel) if may_ask else None
    box = Toolbox(config, ask, partial(remember_permission, config))
    try:
        box.open(cancel.cancelled)
        for name, problem in box.problems.items():
            click.echo(f"etui: tools of {name}: {problem}", err=True)
        yield box
    finally:
        box.close()


def _answer(
    asked: _Question,
    overrides: Overrides,
    show: Callable[[TurnEvent], None],
    confirm: Callable[[str], bool] | None,
    *,
    tools: bool,
) -> TurnRecord:
    from etui.backends.base import Cancel
    from etui.runtime.decide import choose
    from etui.runtime.host import read_host
    from etui.runtime.model_resolution import refit_curve
    from etui.runtime.runtime import open_runtime
    from etui.turn.events import TurnFinished
    from etui.turn.interfaces import Origin
    from etui.turn.record import SAVED_PROMPT

    config = load_config()
    make_home(config)
    stopped, cancel = Event(), Cancel()
    record = None
    with (
        open_runtime(config, keep=True) as runtime,
        _open_tools(config, cancel, may_ask=confirm is not None, wanted=tools) as box,
    ):

        def decide(query: Query) -> Choice:
            return choose(query, overrides, runtime, lambda: read_host(config), confirm=confirm)

        query, choice = asked.fit(decide, runtime)
        settings = {SAVED_PROMPT: asked.saved} if asked.saved else {}
        runtime.writer.ready()
        origin = Origin(settings=settings)
        turn: Turn | ToolLoop
        if box is None:
            turn = runtime.turn(query, choice, cancel, origin)
        else:
            offered = box.offer(query)

            def decide_round(each: Query) -> Choice:
                return choice if each is offered else decide(each)

            turn = runtime.tool_turn(offered, box, decide_round, cancel, origin)
        with stop_signals(stopped, cancel.cancel), closing(turn.run()) as events:
            for event in events:
                if isinstance(event, TurnFinished):
                    record = event.record
                show(event)
        if record is not None:
            refit_curve(record, config, runtime.writer.save_curve)
    assert record is not None
    return record


@dataclass(frozen=True)
class _Question:
    """The question as it was asked."""

    text: str  # The prompt and standard input
    system: str | None  # System prompt; None for none
    attachments: Sequence[Attachment]
    part: Part | None  # What to keep of files that do not fit; None refuses them
    saved: str | None  # Name of the saved prompt; None without one

    @property
    def query(self) -> Query:
        """The question with whole files."""
        return self._build(self.attachments)

    def fit(self, decide: Callable[[Query], Choice], runtime: Runtime[Any]) -> tuple[Query, Choice]:
        """Return the question with what fits of its files, and the decision for it."""
        query = self.query
        choice = decide(query)
        if not self.attachments:
            return query, choice
        kept = self._fit_files(query, choice, runtime)
        if kept is None:
            return query, choice
        query = self._build(kept)
        return query, decide(query)

    def _fit_files(
        self, query: Query, choice: Choice, runtime: Runtime[Any]
    ) -> tuple[Attachment, ...] | None:
        """Return what fits of the files; None if they fit whole.

        No tokenizer is started for texts that fit whatever they contain: no token is shorter than
        a byte.
        """
        from etui.engine.token_counter import TokenCounter
        from etui.runtime.forecast import count_tokens, forecast_choice

        context_tokens = runtime.model_files.find_context_tokens(
            choice.decision.arm.model, runtime.catalogue
        )
        size_bytes = len(query.text.encode("utf-8", "surrogatepass"))
        if context_tokens is None or 2 * size_bytes < context_tokens:
            return None
        with closing(TokenCounter()) as counter:
            parts = [self.text, *(each.block() for each in self.attachments)]
            found = forecast_choice(query, choice, parts, runtime, counter)
            if found.fits:
                return None
            assert found.context_tokens is not None
            assert found.room_tokens is not None
            if self.part is None:
                counted = [
                    replace(each, tokens=count.tokens)
                    for each, count in zip(self.attachments, found.parts[1:], strict=True)
                ]
                what = describe_excess(
                    counted, found.tokens, found.context_tokens, found.model, exact=found.exact
                )
                raise UsageError(what, "take a part: --part head, --part tail or --part ends")

            def count(piece: str) -> int:
                return count_tokens(piece, found.model, runtime, counter).tokens

            return fit_attachments(self.text, self.attachments, self.part, found.room_tokens, count)

    def _build(self, attachments: Sequence[Attachment]) -> Query:
        shown = list_pictures(attachments)
        return Query(
            join(self.text, attachments),
            self.system,
            pictures=shown,
            takes_own_system=self.system is None,
        )


def _print_document(event: TurnEvent) -> None:
    """Print the turn as one JSON document as soon as it has ended, even if the log then fails."""
    from etui.turn.events import TurnFinished

    if isinstance(event, TurnFinished):
        print_json(event.record.to_json())


def read_question(prompt: str | None, stdin: BinaryIO | None, *, is_terminal: bool) -> str:
    """Read the whole question: the argument, and what standard input has, if it is no terminal."""
    parts = [prompt or ""]
    if stdin is not None and not is_terminal:
        parts.append(_decode(stdin.read(MAX_INPUT_BYTES + 1)))
    question = "\n\n".join(part.strip() for part in parts if part.strip())
    if not question:
        raise UsageError("the prompt is empty", 'ask something: etui ask "What is a joule?"')
    if "\0" in question:
        raise UsageError("the prompt contains a NUL character", "use plain text")
    if any("\ud800" <= character <= "\udfff" for character in question):
        raise UsageError(
            "the prompt is not text: it contains bytes that are not UTF-8", "set a UTF-8 locale"
        )
    return question


def parse_values(pairs: Sequence[str]) -> dict[str, str]:
    """Parse ``VAR=VALUE`` pairs."""
    values: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--set {pair}: no VAR=VALUE", "write it as --set language=Python")
        if name.strip() in values:
            raise UsageError(f"--set {name.strip()} is given twice", "give one value")
        values[name.strip()] = value
    return values


def read_saved(name: str | None, values: Mapping[str, str]) -> SavedPrompt | None:
    """Read a saved prompt and fill in its variables; None without a name."""
    if name is None:
        if values:
            raise UsageError("--set has no effect without --prompt", "add --prompt NAME")
        return None

    return find_prompt(name, load_config()).filled(values)


def open_standard_input() -> tuple[BinaryIO | None, bool]:
    """Return standard input as bytes, None if it is closed, and whether it is a terminal."""
    stream = sys.stdin
    if stream is None or stream.closed:
        return None, False
    return stream.buffer, stream.isatty()


def _decode(data: bytes) -> str:
    if len(data) > MAX_INPUT_BYTES:
        raise UsageError(
            f"standard input is longer than {MAX_INPUT_BYTES // 1_000_000} MB",
            "it does not fit any context: send a part of it",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"standard input is not text: byte 0x{data[error.start]:02x} at position {error.start} "
            "is not UTF-8",
            "send text; for another encoding: iconv -t UTF-8 FILE | etui ask",
        ) from error
    if "\0" in text:
        raise UsageError(
            f"standard input is not text: a NUL byte at position {data.index(0)}", "send text"
        )
    return text
