"""The memory of all bodies together: what is counted, who is refused, and when it is free again."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from etui.server import bodies
from etui.server.bodies import LARGE_BYTES, BodyBudget, IncomingBody
from etui.server.context import ServerSettings
from etui.server.errors import ApiError
from tests.server.fakes import FakePool, Running, serving, until_cancelled, wait
from tests.server.raw import QUESTION, ask, build, exchange, read_reply

KIB = 2**10
BUDGET = 1024 * KIB


def large(size: int) -> bytes:
    text = "x" * size
    return json.dumps({**QUESTION, "messages": [{"role": "user", "content": text}]}).encode()


@contextmanager
def holding(
    server: Running, count: int, size: int, **headers: Any
) -> Iterator[list[socket.socket]]:
    """Hold bodies half sent, each with ``size`` bytes at the server."""
    with ExitStack() as stack:
        opened = [stack.enter_context(server.connect()) for _ in range(count)]
        for each in opened:
            # What is declared has room too, in whatever order the heads and bytes are read.
            length = {"Content-Length": str(size + 20 * KIB), **headers}
            each.sendall(build(server, b'{"model": "' + b"x" * size, headers=length))
        yield opened


def until_held(server: Running, least: int) -> None:
    """Wait until the server holds that much."""
    budget = server.server.config.app._bodies  # type: ignore[union-attr]
    deadline = asyncio.run(_until(lambda: budget._held.total() >= least))
    assert deadline


async def _until(condition: Any) -> bool:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)
    return True


def test_bodies_that_are_half_sent_share_a_budget_and_small_ones_are_free() -> None:
    with serving(bodies_limit_bytes=BUDGET) as server, holding(server, 2, 500 * KIB):
        until_held(server, 2 * (500 - 65) * KIB)
        reply = exchange(server, build(server, large(400 * KIB)))
        assert (reply.status, reply.error["code"]) == (503, "body_memory_full")
        assert int(reply.headers["retry-after"]) >= 1
        assert exchange(server, ask(server)).status == 200
        small = large(LARGE_BYTES - 200)
        assert exchange(server, build(server, small)).status == 200


def test_a_body_of_unknown_length_is_counted_as_it_comes() -> None:
    chunked = {"Content-Length": None, "Transfer-Encoding": "chunked"}
    part = b"x" * 200 * KIB
    chunk = f"{len(part):x}".encode() + b"\r\n" + part + b"\r\n"
    with serving(bodies_limit_bytes=BUDGET) as server, server.connect() as opened:
        head = build(server, headers=chunked)
        opened.sendall(head + chunk * 8 + b"0\r\n\r\n")
        assert read_reply(opened).error["code"] == "body_memory_full"


def test_one_that_has_stalled_is_given_up_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "_STALLED_SECONDS", 0.0)
    monkeypatch.setattr(bodies, "_DISCARD_SECONDS", 0.5)
    with serving(bodies_limit_bytes=BUDGET) as server, holding(server, 2, 500 * KIB) as held:
        until_held(server, 2 * (500 - 65) * KIB)
        assert exchange(server, build(server, large(400 * KIB))).status == 200
        reply = read_reply(held[0])
        assert (reply.status, reply.error["code"]) == (503, "body_memory_full")


def test_a_body_is_held_as_long_as_its_turn() -> None:
    pool = FakePool(until_cancelled())
    with serving(pool, bodies_limit_bytes=BUDGET) as server, server.connect() as first:
        first.sendall(build(server, large(700 * KIB)))
        assert pool.submitted.acquire(timeout=30)
        question = build(server, large(500 * KIB))
        assert exchange(server, question).error["code"] == "body_memory_full"
        pool.scripts = FakePool().scripts
        pool.turns[0].cancel()
        assert read_reply(first).status in (200, 503)
        wait(pool.turns[0].over)
        assert exchange(server, question).status == 200


def test_what_a_body_becomes_in_memory_is_counted() -> None:
    wide = json.dumps({**QUESTION, "extra": "\U0001f600" + "x" * 400 * KIB}).encode()
    with serving(bodies_limit_bytes=BUDGET) as server:
        reply = exchange(server, build(server, wide))
        assert (reply.status, reply.error["code"]) == (503, "body_memory_full")
        assert exchange(server, build(server, large(400 * KIB))).status == 200


def test_the_client_gets_the_refusal_although_it_goes_on_sending() -> None:
    with serving(bodies_limit_bytes=BUDGET) as server, server.connect() as opened:
        opened.sendall(build(server, large(7 * 2**20)))
        assert read_reply(opened).error["code"] == "body_memory_full"


async def _never() -> Any:
    await asyncio.Event().wait()


def _body(budget: BodyBudget, settings: ServerSettings, key: str) -> IncomingBody:
    body = IncomingBody(_never, settings, budget, 0)
    body.key = key
    return body


def test_each_key_has_twice_the_budget_and_all_keys_four_times() -> None:
    settings = ServerSettings(bodies_limit_bytes=BUDGET, keys=dict.fromkeys("abcd", ""))
    budget = BodyBudget(settings)
    full = 2 * BUDGET + LARGE_BYTES

    async def fill() -> list[str]:
        refused = []
        for key in "aabbc":
            try:
                budget.take(_body(budget, settings, key), full)
            except ApiError:
                refused.append(key)
        return refused

    assert asyncio.run(fill()) == ["a", "b", "c"]


def test_a_key_gives_up_no_body_of_another_one_for_its_own_share() -> None:
    settings = ServerSettings(bodies_limit_bytes=BUDGET, keys=dict.fromkeys("ab", ""))
    budget = BodyBudget(settings)

    async def fill() -> bool:
        other, own = (_body(budget, settings, key) for key in "ba")
        for body in (other, own):
            budget.incoming.add(body)
            budget.take(body, BUDGET)
            body.progress_at = -100.0
        budget.take(_body(budget, settings, "a"), 2 * BUDGET)
        return other.counted > 0 and own.counted == 0

    assert asyncio.run(fill())


def test_the_memory_is_given_back_once_after_many_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed: list[int] = []
    monkeypatch.setattr(bodies, "trim_heap", lambda: trimmed.append(1))
    monkeypatch.setattr(bodies, "_TRIM_SECONDS", 0.0)
    settings = ServerSettings()
    budget = BodyBudget(settings)

    async def free() -> None:
        held = [_body(budget, settings, "") for _ in range(5)]
        for body in held:
            budget.take(body, 2**20)
        for body in held:
            body.release()
        await _until(lambda: trimmed)

    asyncio.run(free())
    assert trimmed == [1]
    bodies.trim_heap()
