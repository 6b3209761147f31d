"""The form of an answer that a client asks for, worked out for one model and one arm."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from etui.arm import Arm
from etui.chat import DEFAULT_OUTPUT, Message, OutputOptions
from etui.engine.chat_formats import ToolFormat
from etui.engine.grammar import (
    CALL_LEAD,
    build_schema_grammar,
    build_tool_grammar,
    choose_tools,
    read_tools,
)
from etui.engine.session import ModelFacts, OutputGrammar, Session
from etui.errors import InvalidRequest
from etui.reasoning.prompts import choose_style

STOPS = 32
COUNT = 8
TOP_LOGPROBS = 20
BIASES = 1024


@dataclass(frozen=True, slots=True)
class Output:
    """What the answer has to keep to."""

    options: OutputOptions = DEFAULT_OUTPUT  # As the client asks
    grammar: OutputGrammar | None = None  # Grammar of the answer; None for any text
    tools: str = ""  # Tools in the prompt, a JSON array in the OpenAI form; empty for none
    tool_format: ToolFormat = ""  # How calls are read out of the text; empty reads none
    call_lead: str | None = None
    """Begin of the header of a call that etui writes, where calls are messages of their own; empty
    if the model writes it, None where there are no such messages."""
    tool_names: tuple[str, ...] = ()
    most_calls: int = 128
    note: str = ""  # Why the answer has another form than its arm states, for `Finished.why`

    @property
    def is_formed(self) -> bool:
        """Whether anything but free text about options is asked for."""
        return (
            bool(self.grammar or self.tool_format or self.options.continues)
            or self.options.top_logprobs is not None
            or self.options.raw
            or self.options.number
        )


PLAIN = Output()
"""Text as the model writes it."""


def check_options(options: OutputOptions) -> None:
    """InvalidRequest if a value is out of its bounds, or two options exclude each other."""
    if len(options.stop) > STOPS or any(not 0 < len(each) <= 256 for each in options.stop):
        raise InvalidRequest(f"stop is not 1 to {STOPS} texts of 1 to 256 characters", "", "stop")
    if not 1 <= options.count <= COUNT:
        raise InvalidRequest(f"n is not a number from 1 to {COUNT}", "", "n")
    if options.top_logprobs is not None and not 0 <= options.top_logprobs <= TOP_LOGPROBS:
        raise InvalidRequest(
            f"top_logprobs is not a number from 0 to {TOP_LOGPROBS}", "", "top_logprobs"
        )
    if options.tools and options.json_schema and options.tool_choice not in ("none", "auto"):
        raise InvalidRequest(
            "an answer that has to call a tool cannot match a JSON schema too",
            "leave out response_format, or use `tool_choice: none`",
            "response_format",
        )
    if options.raw and (options.tools or options.json_schema):
        param = "tools" if options.tools else "response_format"
        raise InvalidRequest("a raw prompt has no place for this option", "", param)
    if options.prompt_tokens and not options.raw:
        raise InvalidRequest("token ids are the prompt of a raw completion", "", "prompt")
    if len(options.logit_bias) > BIASES:
        raise InvalidRequest(f"logit_bias has more than {BIASES} entries", "", "logit_bias")


def build_output(
    options: OutputOptions, arm: Arm, facts: ModelFacts, messages: Sequence[Message]
) -> Output:
    """Work out the form of an answer for a model and the arm of :func:`adapt_arm`.

    InvalidRequest if the model cannot keep to it.
    """
    check_options(options)
    continues = messages[-1].role == "assistant" and not options.raw
    if continues and not options.continues:
        check_continuation(options, facts)
    lead = arm.reasoning == "cot" and arm.think_tokens > 0
    output = Output(options)
    if options.prompt_tokens:
        _check_tokens(options.prompt_tokens, facts, "prompt")
    biased = [each for each, _ in options.logit_bias if isinstance(each, int)]
    _check_tokens(biased, facts, "logit_bias")
    if options.tools and options.tool_choice != "none":
        return _with_tools(output, options, facts, lead=lead)
    if options.json_schema:
        return replace(output, grammar=build_schema_grammar(options.json_schema, lead=lead))
    return output


def _with_tools(output: Output, options: OutputOptions, facts: ModelFacts, *, lead: bool) -> Output:
    tools = read_tools(options.tools)
    chosen = choose_tools(tools, options.tool_choice)
    tool_format = facts.format.tools
    if not tool_format:
        raise InvalidRequest(
            f"the chat template of {facts.name} has no place for tools that etui can read",
            "ask without tools, or choose a model that can call them",
            "tools",
        )
    grammar = None
    if options.json_schema and tool_format == "harmony":
        raise InvalidRequest(
            f"{facts.name} writes calls of tools as messages, which no JSON schema can match",
            "leave out response_format, or use `tool_choice: none`",
            "response_format",
        )
    if options.tool_choice != "auto" or options.json_schema:
        parallel = options.parallel_tool_calls
        lead = lead and tool_format != "harmony"  # etui itself begins the header of a call
        grammar = build_tool_grammar(
            chosen, tool_format, parallel=parallel, lead=lead, schema=options.json_schema
        )
    elif options.strict_tools:
        try:
            parallel = options.parallel_tool_calls
            grammar = build_tool_grammar(chosen, tool_format, parallel=parallel, free=True)
        except InvalidRequest as error:  # many clients always ask for it
            output = replace(output, note=f"the tools are not strict: {error.what}")
    return replace(
        output,
        grammar=grammar,
        tools=options.tools,
        tool_format=tool_format,
        call_lead=None if tool_format != "harmony" else CALL_LEAD if grammar is not None else "",
        tool_names=tuple(tool.name for tool in tools),
        most_calls=output.most_calls if options.parallel_tool_calls else 1,
    )


def check_continuation(options: OutputOptions, facts: ModelFacts) -> None:
    """InvalidRequest if the begin of an answer cannot be given to a model as text."""
    if facts.format.always_thinks:
        raise InvalidRequest(
            f"{facts.name} always thinks, so the begin of its answer cannot be given",
            "let the last message be the user's",
            "messages",
        )
    if options.json_schema or options.tools:
        raise InvalidRequest(
            "the begin of an answer cannot be given with tools or a JSON schema",
            "let the last message be the user's",
            "messages",
        )


def _check_tokens(tokens: Sequence[int], facts: ModelFacts, param: str) -> None:
    most = facts.vocabulary_tokens
    if any(token < 0 or most is None or token >= most for token in tokens):
        raise InvalidRequest(
            f"the {param} has a token that {facts.name} does not have",
            f"send the {param} as text" if most is None else f"its tokens are 0 to {most - 1}",
            param,
        )


def resolve_biases(
    biases: Iterable[tuple[int | str, float]], session: Session
) -> Iterator[tuple[int, float]]:
    """Yield the tokens of biases, of which a text has several."""
    for each, bias in biases:
        tokens = [each] if isinstance(each, int) else session.tokenize(each, special=False)
        yield from ((token, bias) for token in tokens)


def adapt_arm(
    arm: Arm, options: OutputOptions, facts: ModelFacts, messages: Sequence[Message]
) -> tuple[Arm, str]:
    """Return the arm that can answer in the form asked for, and why it is not the given one.

    Thinking between tags is apart from the answer, so it stays with a JSON schema and with tools;
    thinking in plain words would have to keep to them too. Majority votes and the readout of
    letters write no answer that could. Raw prompts and answers that continue a given begin have no
    place for thinking.
    """
    formed = bool(options.json_schema or (options.tools and options.tool_choice != "none"))
    reason = ""
    if options.raw:
        reason = "a raw prompt"
    elif messages[-1].role == "assistant":
        reason = "the begin of the answer was given"
    elif formed:
        reason = "tools" if options.tools and options.tool_choice != "none" else "a JSON schema"
    elif messages[-1].role == "tool":
        reason = "the result of a tool"
    elif options.count > 1:
        reason = "several answers"
    elif options.top_logprobs is not None:
        reason = "log-probabilities"
    if not reason:
        return arm, ""
    if formed:  # what repeats in it, such as the items of a list, is no loop
        arm = replace(arm, loop_guard=False)
    thinks = arm.reasoning == "cot"
    native = thinks and choose_style(arm, facts) == "native"
    keeps = (
        thinks
        and not options.raw
        and messages[-1].role != "assistant"
        and (native or not (formed or messages[-1].role == "tool"))
    )
    if keeps or (arm.reasoning == "direct" and arm.readout != "choices"):
        return arm, ""
    direct = replace(arm, reasoning="direct", readout="text", think_tokens=0)
    note = f"{arm.name} answered directly, because of {reason}"
    return direct, "" if options.continues else note
