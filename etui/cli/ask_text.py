"""Print a turn for ``etui ask``: the answer on stdout, everything else on stderr."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field

import click

from etui.cli.streams import control_stream, data_stream
from etui.events import Answer, Finished, Loaded, Prefilled, Thought, Unloaded, Vote
from etui.multiple_choice import parse_options
from etui.routing.decision import Decision
from etui.text import one_line, sanitize
from etui.turn.events import (
    Decided,
    HopEnded,
    HopStarted,
    RoundStarted,
    ToolEnded,
    ToolStarted,
    TurnEvent,
    TurnFinished,
)
from etui.turn.text import call_line, energy_line, hop_line, round_line, vote_line, why_line
from etui.units import seconds_text

_WORDS = 4
"""Words that must have occurred together before, for the text to be held back from the first."""
_PIECE = re.compile(r"\s*\w+|\s*[^\w\s]")
"""A word or a mark with the white space before it."""


@dataclass(slots=True)
class RepeatHold:
    """Split a stream into text to print now and text to hold.

    A word is held while it and the words after it have occurred together before. So a loop is held
    from its second round on, and other text for a few words at most.
    """

    _rest: str = ""
    _held: list[str] = field(default_factory=list)
    _words: list[str] = field(default_factory=list)
    _seen: set[tuple[str, ...]] = field(default_factory=set)

    def push(self, text: str) -> str:
        """Add streamed text; return what can be printed."""
        self._rest += text
        found = list(_PIECE.finditer(self._rest))
        # The last piece may go on in the next text.
        printed = "".join(self._add(piece[0]) for piece in found[:-1])
        if found:
            self._rest = self._rest[found[-1].start() :]
        return printed

    def _add(self, piece: str) -> str:
        self._held.append(piece)
        self._words.append(piece.strip())
        seen = [tuple(self._words[-size:]) in self._seen for size in range(1, _WORDS + 1)]
        for size in range(1, min(_WORDS, len(self._words)) + 1):
            self._seen.add(tuple(self._words[-size:]))
        # The word ``back`` places ago may begin a repetition if the words from it on are not new.
        back = next((size for size in range(_WORDS, 0, -1) if seen[size - 1]), 0)
        if back == _WORDS:
            return ""
        keep = min(back, len(self._held))
        out = "".join(self._held[: len(self._held) - keep])
        self._held = self._held[len(self._held) - keep :]
        return out

    def finish(self) -> str:
        """Return the text that is still held."""
        held = "".join(self._held) + self._rest
        self._held, self._rest = [], ""
        return held


@dataclass(slots=True)
class AskText:
    """Prints the events of one turn as they arrive.

    The answer streams, unless a later one may replace it: text on stdout cannot be taken back. For
    the same reason, text that a loop guard may still cut is held back.
    """

    question: str
    quiet: bool
    _held: bool = False
    _hold: RepeatHold | None = None
    _printed: str = ""
    _thinking_open: bool = False
    _answer_open: bool = False
    _after: list[str] = field(default_factory=list)

    def show(self, event: TurnEvent) -> None:
        """Print one event."""
        match event:
            case Decided(decision=decision):
                self._held = _may_change(decision, self.question)
                self._hold = RepeatHold() if _may_be_cut(decision) else None
                for notice in decision.notices:
                    self._note(notice, dim=False)
                self._note(why_line(decision))
            case HopStarted(number=number) if number > 1:
                self._note(f"hop {number}: {event.arm} ({event.reasoning}) on {event.model}")
            case Unloaded() if sys.stderr.isatty():
                self._note(f"unloaded {event.model}")
            case Loaded() if sys.stderr.isatty():
                took = seconds_text((event.end_ns - event.start_ns) / 1e9)
                self._note(f"loaded {event.model} in {took}")
            case Prefilled(dropped_messages=dropped) if dropped:
                self._note(f"the oldest {dropped} messages no longer fit and were left out")
            case Thought(text=text) if text and not self.quiet:
                self._thinking_open = True
                self._print_styled(text, dim=True, nl=False)
            case Answer(text=text) if not self._held:
                self._write(self._hold.push(text) if self._hold is not None else text)
            case Vote():
                self._note(vote_line(event))
            case ToolStarted(name=name, arguments=arguments):
                self._end_thinking()
                self._note(f"running {name} {one_line(arguments)}")
            case ToolEnded(call=call):
                self._note(call_line(call), dim=call.status == "done")
            case Finished(tool_calls=calls) if calls:
                self._end_round()
            case RoundStarted():
                self._note(round_line(event))
            case HopEnded():
                self._end_thinking()
                if self._answer_open:  # a note would break its last line
                    self._after.append(hop_line(event))
                else:
                    self._note(hop_line(event))
            case TurnFinished():
                self._finish(event)

    def _end_round(self) -> None:
        """End the text before calls, which is not the answer yet."""
        if self._hold is not None:
            self._write(self._hold.finish())
        if self._answer_open:
            click.echo(file=data_stream())
        self._printed, self._answer_open = "", False

    def _finish(self, finished: TurnFinished) -> None:
        record = finished.record
        self._end_thinking()
        if self._held:
            self._write(record.answer)
        elif self._hold is not None and record.ended == "repeats":
            # What was printed is the beginning of the cut answer, or a few words more.
            self._write(record.answer[len(self._printed) :])
        elif self._hold is not None:
            self._write(self._hold.finish())
        if record.answer:
            click.echo()
        for note in self._after:
            self._note(note)
        self._note(energy_line(record), dim=False, bold=record.status == "complete")
        ended = str(record.settings.get("ended") or "")
        # The cost line says that the answer repeats itself.
        said = record.ended == "repeats" and "; " not in ended
        if ended and record.status != "error" and not said:
            self._note(ended)

    def _write(self, text: str) -> None:
        if not self._answer_open:
            text = text.lstrip()
            if not text:
                return
            self._end_thinking()
            self._answer_open = True
        self._printed += text
        click.echo(text, file=data_stream(), nl=False)

    def _note(self, text: str, *, dim: bool = True, bold: bool = False) -> None:
        if not self.quiet:
            self._print_styled(text, dim=dim, bold=bold)

    def _end_thinking(self) -> None:
        if self._thinking_open:
            self._thinking_open = False
            click.echo(err=True)

    def _print_styled(self, text: str, *, nl: bool = True, **style: bool) -> None:
        click.secho(sanitize(text), file=control_stream(err=True), nl=nl, **style)


def _may_change(decision: Decision, question: str) -> bool:
    """Return whether a later answer may replace the one that is being written."""
    asks_again = decision.fallbacks.no_answer == "ask_constrained"
    return decision.cascade is not None or (asks_again and bool(parse_options(question)))


def _may_be_cut(decision: Decision) -> bool:
    """Return whether a loop guard may cut the answer: of the arm, or of the one in its place."""
    instead = decision.fallbacks.load_failed
    return bool(decision.arm.loop_guard or (instead is not None and instead.loop_guard))
