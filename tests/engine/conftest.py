"""The starter model in memory, once for all tests of the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from etui.engine.chat_prompt import ChatTemplate
from etui.engine.context import Context, ContextOptions
from etui.engine.library import Library
from etui.engine.llama_session import LlamaSession
from etui.engine.model import Model
from etui.engine.session import ModelFacts
from etui.engine.template_process import TemplateProcess

OPTIONS = ContextOptions(context_tokens=1024, threads=1, sequences=8, batch_tokens=128)

MakeSession = Callable[..., LlamaSession]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    library = Library(tmp_path_factory.mktemp("logs"))
    yield library
    library.close()


@pytest.fixture(scope="session")
def model(library: Library, starter_model: Path) -> Iterator[Model]:
    model = Model(library, starter_model)
    yield model
    model.free()


@pytest.fixture
def make_session(library: Library, model: Model) -> Iterator[MakeSession]:
    """Makes sessions over the starter model; keywords are those of ContextOptions."""
    contexts: list[Context] = []
    templates = TemplateProcess()

    def make(**options: int) -> LlamaSession:
        chosen = replace(OPTIONS, **options)
        context = Context(library, model, chosen)
        contexts.append(context)
        facts = ModelFacts("starter", chosen.context_tokens, ())
        source = model.metadata("tokenizer.chat_template")
        template = ChatTemplate(templates, "starter", source, model.bos_text, model.eos_text)
        return LlamaSession(model, context, facts, template)

    yield make
    templates.close()
    for context in contexts:
        context.free()


@pytest.fixture
def session(make_session: MakeSession) -> LlamaSession:
    return make_session()
