"""etui as an MCP server: an agent asks its models, and learns what its work costs here in joules.

The library speaks the protocol; here are the tools. A tool that fails says why, in words for the
model that called it; one that is cancelled stops its answer within a batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp_types import CallToolResult, InputRequiredResult, ToolAnnotations
from pydantic import Field, ValidationError

from etui import __version__
from etui.chat import Query
from etui.codec import to_document
from etui.errors import EtuiError
from etui.events import Answer, Thought
from etui.runtime.model_ids import list_model_ids, parse_model_id
from etui.runtime.overrides import Overrides
from etui.runtime.turn_request import PoolEvent, TurnFailed, TurnRequest
from etui.server.errors import ApiError
from etui.server.validation import describe_invalid
from etui.turn.events import Decided, TurnFinished
from etui.turn.record import ClientRecord
from etui.turn.text import energy_line

if TYPE_CHECKING:
    from etui.runtime.runtime import Runtime
    from etui.runtime.turn_pool import TurnPool
    from etui.server.meter import MeterSource
    from etui.turn.record import TurnRecord

_INSTRUCTIONS = (
    "Local language models whose every answer is measured in joules, and the power meter of this "
    "machine. Joules of the kind `estimate` were not read from hardware; null was not measured."
)
_PROGRESS_TOKENS = 16
_TURN = ("answer", "status", "model", "arm", "policy", "why", "tokens", "turn_id")
_ENERGY = ("joules", "uncertainty", "kind", "joules_per_token", "unmeasured")
_READ = ToolAnnotations(read_only_hint=True, open_world_hint=False)


class _Server(MCPServer[Any]):
    """Says in one sentence what is wrong with arguments; the library gives pydantic's report."""

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        try:
            return await super().call_tool(name, arguments, context)
        except UnexpectedToolError:
            raise
        except ToolError as error:
            if isinstance(error.__cause__, ValidationError):
                raise ToolError(describe_invalid(error.__cause__)[1]) from error.__cause__
            raise


class EtuiTools:
    """The tools, over the turns and the meter of this machine.

    Args:
        default: What answers where no model is named.
    """

    def __init__(
        self,
        pool: TurnPool,
        runtime: Runtime[Any],
        source: MeterSource,
        default: Overrides,
    ) -> None:
        self._pool = pool
        self._runtime = runtime
        self._source = source
        self._default = default

    def build_server(self) -> MCPServer[Any]:
        """Build the server with these tools."""
        server = _Server(
            "etui", version=__version__, instructions=_INSTRUCTIONS, log_level="WARNING"
        )
        tools: tuple[Callable[..., Awaitable[dict[str, Any]]], ...] = (
            self.ask, self.power_now, self.energy_of_interval, self.models
        )  # fmt: skip
        for tool in tools:
            server.add_tool(tool, annotations=_READ)
        return server

    async def ask(
        self,
        question: Annotated[str, Field(min_length=1, max_length=1_000_000)],
        context: Context[Any, Any],
        model: Annotated[
            str, Field(description="Policy, POLICY/ARM or model; empty: the default. See models.")
        ] = "",
        system: Annotated[str, Field(description="System prompt")] = "",
        max_tokens: Annotated[int | None, Field(ge=1, le=100_000)] = None,
    ) -> dict[str, Any]:
        """Answer a question with a local model, chosen by etui's policy, and say its joules.

        `energy` has joules with ± (half width at 95 %) and how they were measured; the load of a
        model is apart.
        """
        overrides = await self._find_model(model.strip())
        request = TurnRequest(
            Query(question, system=system or None, owner="mcp"),
            replace(overrides, max_tokens=max_tokens, lenient=True),
            ClientRecord("mcp"),
        )
        loop, events = asyncio.get_running_loop(), asyncio.Queue[PoolEvent]()

        def pass_on(event: PoolEvent) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        try:
            turn = self._pool.submit(request, pass_on)
        except EtuiError as error:
            raise _to_tool_error(error) from error
        try:
            return _describe_turn(await _follow(events, context))
        finally:
            turn.cancel()  # if the client has gone, or cancelled; nothing once it has ended

    async def power_now(self) -> dict[str, Any]:
        """Read the power of this machine now: the total in watts and each channel.

        `kind` says how it is known (`estimate`: without a sensor), `unmeasured` what is not in it.
        """
        return await asyncio.to_thread(self._source.document)

    async def energy_of_interval(
        self,
        start_ns: Annotated[
            int | None, Field(ge=0, description="What a call without arguments gave")
        ] = None,
        seconds: Annotated[float | None, Field(gt=0, le=86_400)] = None,
    ) -> dict[str, Any]:
        """Measure the energy of this machine over an interval, in joules with ±.

        A call without arguments starts one and gives `start_ns`; a call with that measures from
        then to now. With `seconds`, the seconds before now, as far as they were recorded.
        """
        now_ns = self._source.clock()
        if seconds is not None:
            start_ns = max(0, now_ns - round(seconds * 1e9))
        if start_ns is None:
            return {"start_ns": now_ns}
        try:
            self._source.check_interval(start_ns, now_ns, None)
        except ApiError as error:
            since_ns = self._source.recorder.recorded_since_ns or now_ns
            recorded = f"recorded are the last {(now_ns - since_ns) / 1e9:.1f} s"
            raise ToolError(f"{error.message}; {recorded}") from error
        measured = await asyncio.to_thread(self._source.measure, start_ns, now_ns)
        return {"seconds": (now_ns - start_ns) / 1e9, **measured}

    async def models(self) -> dict[str, Any]:
        """List what `ask` can name: policies, their arms and models, with joules per token.

        `joules_per_token` is measured here on earlier answers or by a calibration; null if neither.
        """
        residents = self._pool.status().residents
        try:
            found = await asyncio.to_thread(list_model_ids, self._runtime, residents)
        except EtuiError as error:
            raise _to_tool_error(error) from error
        default = self._default.model or self._default.policy
        config = self._runtime.config
        return {
            "default": default or config.model or config.policy,
            "models": [to_document(model) for model in found],
        }

    async def _find_model(self, model: str) -> Overrides:
        if not model:
            return self._default
        try:
            return await asyncio.to_thread(parse_model_id, model, self._runtime)
        except EtuiError as error:
            raise ToolError(f"{error.what}; the tool `models` lists all of them") from error


async def _follow(events: asyncio.Queue[PoolEvent], context: Context[Any, Any]) -> TurnRecord:
    """Wait for the end of a turn, and report how far it is."""
    tokens = 0
    while True:
        match await events.get():
            case TurnFinished(record=record):
                if record.error:
                    raise ToolError(record.error)
                return record
            case TurnFailed(error=error):
                raise _to_tool_error(error)
            case Decided(decision=decision):
                await context.report_progress(0, message=decision.why)
            case Thought(tokens=count) | Answer(tokens=count):
                before, tokens = tokens, tokens + count
                if before // _PROGRESS_TOKENS < tokens // _PROGRESS_TOKENS:
                    await context.report_progress(tokens, message=f"{tokens} tokens")


def _describe_turn(record: TurnRecord) -> dict[str, Any]:
    document = record.to_json()
    energy = {name: document["energy"][name] for name in _ENERGY}
    return {
        **{name: document[name] for name in _TURN},
        "cost": energy_line(record),
        "energy": energy | {"load_joules": record.energy.phases.get("load")},
        "seconds": record.seconds.total,
    }


def _to_tool_error(error: EtuiError) -> ToolError:
    return ToolError("; ".join(part for part in (error.what, error.fix) if part))
