"""Turn the text of an answer into text and calls of tools, event by event."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from etui.events import Answer, Event, Finished, ToolCall
from etui.reasoning.output import Output
from etui.reasoning.tool_calls import Part, ToolCallParser


def separate_calls(events: Iterable[Event], output: Output) -> Iterator[Event]:
    """Yield the events of one answer, with calls of tools in ``ToolCall`` events.

    An ``Answer`` event keeps its tokens, and has the text that belongs to no call.
    """
    parser = create_parser(output)
    texts: list[str] = []
    at_ns = 0
    for event in events:
        if isinstance(event, Answer):
            at_ns = event.t_ns
            yield from _build(parser.push(event.text), at_ns, event.tokens, texts)
        elif isinstance(event, Finished):
            yield from _build(parser.finish(), at_ns, 0, texts)
            calls = parser.document()
            if calls:
                event = replace(event, answer="".join(texts).strip(), tool_calls=calls)
            yield event
        else:
            yield event


def read_calls(text: str, output: Output) -> tuple[str, str]:
    """Separate a whole answer into its text and its calls, a JSON array or empty."""
    if not output.tool_format:
        return text, ""
    parser = create_parser(output)
    parts = [*parser.push(text), *parser.finish()]
    return "".join(part for part in parts if isinstance(part, str)), parser.document()


def create_parser(output: Output) -> ToolCallParser:
    """Create the parser of an answer."""
    return ToolCallParser(output.tool_format, output.tool_names, most=output.most_calls)


def _build(parts: list[Part], at_ns: int, tokens: int, texts: list[str]) -> Iterator[Event]:
    shown = "".join(part for part in parts if isinstance(part, str))
    if shown or tokens:
        texts.append(shown)
        yield Answer(at_ns, shown, tokens)
    for part in parts:
        if not isinstance(part, str):
            yield ToolCall(at_ns, part.index, part.call_id, part.name, part.arguments)
