"""Expensive schemas are refused within a second, and no step of the others takes as long."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest

from etui.engine import grammar_trial
from etui.engine.grammar import Tool, build_schema_grammar, build_tool_grammar
from etui.engine.grammar_trial import GrammarTrial
from etui.engine.model import Model
from etui.engine.sampler import Constraints
from etui.engine.template_process import LimitedProcess
from etui.errors import InvalidRequest
from tests.support.hostile_schemas import REFUSED, SCHEMAS

STEP_SECONDS = 1.0
WALKED_TOKENS = 24


@pytest.fixture(scope="module")
def constraints(model: Model) -> Constraints:
    return Constraints(model._api, model)


class Clock:
    """The CPU time of this thread in the longest of several calls."""

    def __init__(self) -> None:
        self.longest = 0.0

    def __call__(self, function: Any, *arguments: Any) -> Any:
        began = time.thread_time()
        try:
            return function(*arguments)
        finally:
            self.longest = max(self.longest, time.thread_time() - began)


@pytest.mark.parametrize("name", SCHEMAS)
def test_no_step_of_an_expensive_schema_takes_a_second(name: str, constraints: Constraints) -> None:
    clock = Clock()
    if name in REFUSED:
        with pytest.raises(InvalidRequest) as refused:
            clock(build_schema_grammar, json.dumps(SCHEMAS[name]))
        assert refused.value.param == "response_format"
    else:
        grammar = clock(build_schema_grammar, json.dumps(SCHEMAS[name]))
        for seed in range(2):
            chance = random.Random(seed)
            constraint = clock(constraints.make, grammar, 0)
            for _ in range(WALKED_TOKENS):
                clock(constraint.allows, chance.randrange(40_000))
                allowed = clock(constraint.find_allowed)
                if not len(allowed) or not clock(constraint.accept, int(chance.choice(allowed))):
                    break
    assert clock.longest < STEP_SECONDS


def test_the_tools_of_a_request_share_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def exchange(process: LimitedProcess, request: Any) -> Any:
        asked.append(request["seconds"])
        return {"answer": ["", ""], "seconds": 0.2}

    monkeypatch.setattr(LimitedProcess, "exchange", exchange)
    tools = [
        Tool(f"tool{n}", json.dumps({"properties": {f"of the test {n}": {"type": "null"}}}))
        for n in range(4)
    ]
    with pytest.raises(InvalidRequest, match=r"more than 0\.5 s"):
        build_tool_grammar(tools, "hermes", parallel=True)
    assert asked == pytest.approx([0.5, 0.3, 0.1])


def test_what_is_known_of_a_schema_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = json.dumps(SCHEMAS["all letters"])
    with pytest.raises(InvalidRequest) as first:
        build_schema_grammar(slow)
    monkeypatch.setattr(LimitedProcess, "exchange", lambda *_: pytest.fail("tried again"))
    with pytest.raises(InvalidRequest) as again:
        build_schema_grammar(slow)
    assert again.value.what == first.value.what
    assert "0.5 s" in first.value.what


def test_a_process_that_was_killed_is_started_again() -> None:
    schema = json.dumps({"type": "string", "pattern": "^a killed one$"})
    process = grammar_trial._open_process()._process
    process.start()
    assert process._process is not None
    process._process.kill()
    process._process.wait()
    assert GrammarTrial().find_fault(schema=schema, patterns=[]) == ("", "")


def test_what_is_remembered_of_a_fault_is_short() -> None:
    pattern = "(" + "a" * 60_000
    fault, named = GrammarTrial().find_fault(schema='{"type": "string"}', patterns=[pattern])
    assert fault
    assert pattern.startswith(named)
    assert 0 < len(named) <= 200
    assert len(fault) <= 1_000
