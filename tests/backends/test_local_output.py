"""The options of a request reach the answer, through the backend that loads the model."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from etui.arm import Arm
from etui.backends.base import AnswerRequest
from etui.backends.local import LocalBackend
from etui.chat import Message, OutputOptions
from etui.engine.llama_session import LlamaSession
from etui.errors import InvalidRequest
from etui.events import Finished, TokenLogprob
from etui.models.spec import ModelSpec

SPEC = ModelSpec("one", "135M", (), context=512, sha256="ab" * 32)
SCHEMA = '{"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}'


def test_options_reach_the_answer_and_a_refused_one_leaves_the_engine_answering(
    config, starter_model
):
    request = AnswerRequest(
        SPEC, starter_model, (Message("user", "Is it?"),), Arm("quick", "one", max_tokens=40)
    )
    with closing(LocalBackend(replace(config, threads=1))) as backend:
        for options in (
            OutputOptions(tools='[{"type": "function", "function": {"name": "a"}}]'),
            OutputOptions(json_schema='{"not": {}}'),
            OutputOptions(raw=True, prompt_tokens=(-1,)),
        ):
            with pytest.raises(InvalidRequest):
                list(backend.answer(replace(request, options=options)))
        asked = OutputOptions(json_schema=SCHEMA, top_logprobs=1)
        *events, end = backend.answer(replace(request, options=asked))
        assert isinstance(end, Finished)
        assert set(json.loads(end.answer)) == {"ok"}
        assert len([e for e in events if isinstance(e, TokenLogprob)]) == end.output_tokens
        session = _session_of(backend, starter_model)
        assert session.facts.vocabulary_tokens == session.vocabulary.vocabulary
        assert session.facts.format.tools == ""
        assert session.free_tokens == session.options.context_tokens


def _session_of(backend: LocalBackend, path: Path) -> LlamaSession:
    """The session of the model, which is in memory."""
    with pytest.raises(StopIteration) as found:
        next(backend.load(SPEC, path))
    session: LlamaSession = found.value.value
    return session
