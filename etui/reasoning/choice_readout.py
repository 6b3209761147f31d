"""Choice readout: answer a multiple choice from the letters' probabilities, without decoding."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from etui.arm import Arm
from etui.chat import Message
from etui.engine.session import Session, TokenSequence
from etui.events import Answer, Event, Finished, Probe
from etui.multiple_choice import Option, parse_options
from etui.reasoning.context_fit import Reserve, fit
from etui.reasoning.decoding import Control, build_finished, open_prompt
from etui.reasoning.direct import direct
from etui.reasoning.output import PLAIN, Output
from etui.reasoning.prompts import ANSWER_MARKER, direct_prompt, with_letter_instruction
from etui.units import percent_text

LetterTokens = Mapping[str, tuple[int, ...]]
"""The single tokens that spell a letter, by letter."""


@dataclass(frozen=True, slots=True)
class LetterReading:
    """Probabilities of the option letters as the next token."""

    probabilities: tuple[tuple[str, float], ...]
    """Pairs of letter and probability among the letters, in their order; sums to 1."""
    mass: float
    """Probability of all letters together under the full softmax; near 0, the model would write
    something else."""

    @property
    def best(self) -> tuple[str, float]:
        """The most likely letter and its probability; of equal ones the first."""
        return max(self.probabilities, key=lambda letter: letter[1])

    @property
    def margin(self) -> float:
        """Lead of the most likely letter over the second, 0..1."""
        first, second = sorted((p for _, p in self.probabilities), reverse=True)[:2]
        return first - second


def letter_tokens(session: Session, options: Sequence[Option]) -> LetterTokens | None:
    """Find the tokens ``A`` and `` A`` of each letter; None if a letter is not a single token.

    Both forms count: which one a model writes after a colon depends on its vocabulary.
    """
    found: dict[str, tuple[int, ...]] = {}
    for option in options:
        forms = [session.tokenize(f"{space}{option.letter}", special=False) for space in (" ", "")]
        found[option.letter] = tuple(dict.fromkeys(form[0] for form in forms if len(form) == 1))
    taken = [token for tokens in found.values() for token in tokens]
    return found if all(found.values()) and len(set(taken)) == len(taken) else None


def read_letters(session: Session, sequence: TokenSequence, tokens: LetterTokens) -> LetterReading:
    """Read the letters' probabilities after the sequence's last step, summed over both forms."""
    flat = [token for forms in tokens.values() for token in forms]
    logprobs = dict(zip(flat, session.logprobs(sequence, flat), strict=True))
    sums = {
        letter: math.fsum(math.exp(logprobs[token]) for token in forms)
        for letter, forms in tokens.items()
    }
    mass = math.fsum(sums.values())
    if mass > 0.0:
        shares = tuple((letter, p / mass) for letter, p in sums.items())
    else:  # every letter underflowed: compare log-probabilities
        best = {letter: max(logprobs[token] for token in forms) for letter, forms in tokens.items()}
        top = max(best.values())
        scaled = {letter: math.exp(value - top) for letter, value in best.items()}
        whole = math.fsum(scaled.values())
        shares = tuple((letter, value / whole) for letter, value in scaled.items())
    return LetterReading(shares, min(1.0, mass))


_LOW_MASS = 0.5


def choices(
    messages: Sequence[Message],
    arm: Arm,
    session: Session,
    control: Control,
    output: Output = PLAIN,
) -> Iterator[Event]:
    """Answer a multiple choice right after prefill, by the softmax over the option letters.

    Without options, or if a letter is not a single token, the answer is decoded as text.

    Yields:
        The events of the answer; the last is ``Finished``.

    Raises:
        ContextOverflow: The question alone does not fit into the context.
    """
    options = parse_options(messages[-1].content)
    tokens = letter_tokens(session, options) if options else None
    if tokens is not None:
        yield from _read(messages, arm, session, control, options, tokens)
        return
    why = (
        "some option letters are not a single token of this model"
        if options
        else "the question has no options"
    )
    for event in direct(messages, arm, session, control, output):
        if isinstance(event, Finished):
            reason = f"{why}, so the answer was decoded"
            event = replace(event, why="; ".join(part for part in (reason, event.why) if part))
        yield event


def _read(
    messages: Sequence[Message],
    arm: Arm,
    session: Session,
    control: Control,
    options: Sequence[Option],
    tokens: LetterTokens,
) -> Iterator[Event]:
    start_ns = time.monotonic_ns()

    def render(kept: Sequence[Message]) -> str:
        rendered = session.render(kept, thinking=False)
        return direct_prompt(rendered, session.facts) + ANSWER_MARKER

    prompt = fit(
        with_letter_instruction(messages), render, session, Reserve(1, 1, arm.context_overflow)
    )
    opened = yield from open_prompt(prompt, arm, session, control, start_ns)
    try:
        if opened.first is None:
            why = "stopped while computing the prompt"
            yield build_finished(opened, None, None, status="stopped", why=why)
            return
        reading = read_letters(session, opened.sequence, tokens)
        letter, probability = reading.best
        text = format_option(letter, options)
        yield Probe(opened.end_ns, 0, reading.probabilities)
        yield Answer(opened.end_ns, text, 0)
        yield replace(
            build_finished(opened, None, None, status="complete", why=_describe_doubt(reading)),
            answer=text,
            confidence=probability,
            margin=reading.margin,
        )
    finally:
        session.close(opened.sequence)


def format_option(letter: str, options: Sequence[Option]) -> str:
    """Format an option as an answer: ``B) Mars``."""
    text = next(option.text for option in options if option.letter == letter)
    return f"{letter}) {text}".rstrip()


def _describe_doubt(reading: LetterReading) -> str:
    if reading.mass >= _LOW_MASS:
        return ""
    share = percent_text(reading.mass)
    return f"the option letters have only {share} of the probability of the next token"
