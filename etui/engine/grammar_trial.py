"""Try a grammar in a process with limits, before the engine keeps to it.

llguidance bounds the work of most steps, but not that of all schemas: to intersect patterns, or to
count in remainders, can take minutes within one call, which cannot be interrupted. So each schema
is first read, and the grammar of the whole answer walked for some tokens, in a process that the
kernel ends after some CPU time. What passes is built in the engine within that time too.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from string import ascii_lowercase, digits, printable
from typing import Any

from etui.engine.template_process import LimitedProcess
from etui.engine.template_sandbox import (
    LimitExceeded,
    limit_process,
    read_message,
    set_timer,
    write_message,
)

SECONDS = 0.5
"""CPU time for all that a request brings."""

STEPS_A_TOKEN = 20_000_000
"""Most steps of llguidance for the mask of a token, some 100 ms."""

STATES = 50_000
"""Most states of the automaton of a grammar."""

SIMPLER = "use a simpler schema: fewer optional parts in patterns, smaller numbers"

_MEMORY_BYTES = 512_000_000
_TOO_LONG = f"it ran for more than {SECONDS:g} s"
_KNOWN, _MOST_CHARACTERS = 2_048, 200
_WALKS, _WALKED_TOKENS = 2, 16
_MAIN = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from etui.engine.grammar_trial import main; main()"
)


def make_limits() -> Any:
    """Return llguidance's limits, which bound the time of a token."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        step_lexer_fuel=STEPS_A_TOKEN,
        max_lexer_states=STATES,
        max_grammar_size=100_000,
        verbose_errors=False,
    )


class GrammarTrial:
    """Tries the grammars of one request, which share their time."""

    def __init__(self) -> None:
        self._left_seconds = SECONDS

    def find_fault(self, **tried: str | Sequence[str]) -> tuple[str, str]:
        """Return why what is tried cannot be kept, and its pattern that cannot; empty if it can.

        It is a ``schema`` and its ``patterns``, or the ``grammar`` of the whole answer.
        """
        (fault, pattern), seconds = _open_process().ask(tried, self._left_seconds)
        self._left_seconds -= seconds
        return fault, pattern


class _TrialProcess:
    """The process, and what it has said of the last grammars; clients send the same ones again."""

    def __init__(self) -> None:
        root = str(Path(__file__).parents[2])
        self._process = LimitedProcess(["-c", _MAIN, root], "grammars", SECONDS, _MEMORY_BYTES)
        self._known: OrderedDict[bytes, Sequence[str]] = OrderedDict()
        self._lock = threading.Lock()

    def ask(self, request: Mapping[str, Any], seconds: float) -> tuple[Sequence[str], float]:
        """Return the answer, and the CPU time that it took."""
        key = hashlib.sha256(json.dumps(request).encode()).digest()
        with self._lock:
            if key in self._known:
                return self._known[key], 0.0
            try:
                if seconds <= 0:
                    raise LimitExceeded(_TOO_LONG)
                reply = self._process.exchange({**request, "seconds": seconds})
                answer, used = reply["answer"], reply["seconds"]
            except LimitExceeded as error:
                answer, used = (f"reading it was stopped: {error}", ""), seconds
                if seconds < SECONDS or str(error) != _TOO_LONG:  # another time it may be read
                    return answer, used
            self._known[key] = answer
            if len(self._known) > _KNOWN:
                self._known.popitem(last=False)
            return answer, used


@cache
def _open_process() -> _TrialProcess:
    """Return the process of all requests; it ends with this one, which closes its pipe."""
    return _TrialProcess()


class _Tokens:
    """The single bytes, and longer texts as vocabularies have them, in llguidance's form."""

    _longer = (
        *(sign * count for sign in printable for count in (2, 4, 8, 16)),
        *map("".join, product(digits, repeat=3)),
        *map("".join, product(ascii_lowercase, repeat=2)),
        *('":', '": ', '",', '", "', "ä", "ßö", "日本", "語の", "привет"),
    )
    tokens = (*(bytes([byte]) for byte in range(256)), *(t.encode() for t in _longer), b"")
    special_token_ids = (len(tokens) - 1,)
    eos_token_id = len(tokens) - 1
    bos_token_id = None

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


@cache
def _open_vocabulary() -> Any:
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Tokens()), slices=LLTokenizer.json_slices())


def _find_fault_of_schema(schema: str) -> str:
    from llguidance import LLMatcher

    try:
        grammar = LLMatcher.grammar_from_json_schema(schema)
    except ValueError as error:
        return format_fault(str(error))
    return format_fault(LLMatcher.validate_grammar(grammar, limits=make_limits()))


def _walk(grammar: str) -> str:
    """Take random tokens that a grammar allows; return why it could not go on, empty if it did."""
    from llguidance import LLMatcher

    lark = LLMatcher.grammar_from_lark(grammar)
    for seed in range(_WALKS):
        chance = random.Random(seed)
        matcher = LLMatcher(_open_vocabulary(), lark, log_level=0, limits=make_limits())
        for _ in range(_WALKED_TOKENS):
            if matcher.is_error() or matcher.is_stopped():
                break
            allowed = [at for at, bias in enumerate(matcher.compute_logit_bias()) if bias]
            taken = [at for at in allowed if at != _Tokens.eos_token_id]
            if not taken:
                break
            matcher.consume_token(chance.choice(taken))
        if fault := format_fault(matcher.get_error()):
            return fault
    return ""


def format_fault(error: str) -> str:
    """Write an error of llguidance in one line; empty if there is none."""
    return " ".join(error.removesuffix("<non-verbose/>").split())[:_MOST_CHARACTERS]


def _answer(request: Mapping[str, Any]) -> tuple[str, str]:
    if "grammar" in request:
        return _walk(request["grammar"]), ""
    for pattern in request["patterns"]:
        if fault := _find_fault_of_schema(json.dumps({"type": "string", "pattern": pattern})):
            return fault, pattern[:_MOST_CHARACTERS]
    return _find_fault_of_schema(request["schema"]), ""


def main() -> None:
    """Answer the parent on standard input and output; the last argument is the memory limit."""
    _open_vocabulary()
    limit_process(int(sys.argv[-1]))
    while (request := read_message(sys.stdin.buffer)) is not None:
        set_timer(request["seconds"])
        began = time.process_time()
        answer = _answer(request)
        set_timer(0.0)
        reply = {"answer": answer, "seconds": time.process_time() - began}
        write_message(sys.stdout.buffer, reply)
