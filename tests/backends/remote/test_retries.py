"""A request is sent again only if the server surely has not begun it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.backends.remote.client import (
    LONGEST_WAIT_SECONDS,
    Failure,
    build_error,
    find_wait,
    parse_retry_after,
)
from etui.config.backend_spec import BackendSpec
from etui.errors import EtuiError, InvalidRequest, ModelUnavailable, RemoteFailed

KINDS = ("unreachable", "status", "silent", "broken", "format", "redirect", "error event")


@pytest.mark.parametrize(
    ("failure", "again", "spent_nothing", "counts"),
    [
        (Failure("unreachable", "refused"), True, True, True),
        (Failure("status", "busy", status=429), True, True, False),
        (Failure("status", "loading", status=503), True, True, True),
        (Failure("status", "", status=400), False, True, False),
        (Failure("status", "", status=401), False, True, False),
        (Failure("status", "", status=403), False, True, False),
        (Failure("status", "", status=404), False, True, False),
        (Failure("status", "", status=408), False, False, False),
        (Failure("status", "", status=409), False, False, False),
        (Failure("status", "", status=500), False, False, True),
        (Failure("status", "", status=502), False, False, True),
        (Failure("status", "", status=504), False, False, True),
        (Failure("redirect", "", status=307), False, True, True),
        (Failure("silent", "no byte"), False, False, True),
        (Failure("broken", "reset"), False, False, True),
        (Failure("broken", "reset", began=True), False, False, True),
        (Failure("format", "html", began=True), False, False, True),
        (Failure("error event", "out of memory", began=True), False, False, True),
        (Failure("status", "busy", began=True, status=503), False, False, True),
    ],
)
def test_what_is_sent_again(
    failure: Failure, again: bool, spent_nothing: bool, counts: bool
) -> None:
    assert (find_wait(failure, 1, 2) is not None) is again
    assert failure.untouched is spent_nothing
    assert failure.counts is counts
    error = build_error(BackendSpec("desk", "http://desk/v1"), failure, "big")
    assert isinstance(error, RemoteFailed) is not spent_nothing
    assert "desk" in error.what


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, InvalidRequest), (413, InvalidRequest), (422, InvalidRequest),
     (401, ModelUnavailable), (403, ModelUnavailable), (404, ModelUnavailable),
     (429, ModelUnavailable), (503, ModelUnavailable), (500, RemoteFailed)],
)  # fmt: skip
def test_each_status_is_an_error_of_its_own(status: int, error: type[EtuiError]) -> None:
    spec = BackendSpec("desk", "http://desk/v1", key_env="DESK_KEY")
    found = build_error(spec, Failure("status", "no", status=status), "big")
    assert type(found) is error
    assert ("DESK_KEY" in found.fix) is (status in (401, 403))


def test_the_waits_grow_and_end() -> None:
    refused = Failure("unreachable", "")
    assert [find_wait(refused, tries, 3) for tries in (1, 2, 3, 4)] == [0.25, 0.5, 1.0, None]
    assert find_wait(refused, 1, 0) is None


@pytest.mark.parametrize(("asked", "wait"), [(3.0, 3.0), (0.0, 0.0), (3600.0, None)])
def test_the_server_says_how_long_to_wait(asked: float, wait: float | None) -> None:
    assert find_wait(Failure("status", "", status=429, retry_after=asked), 1, 2) == wait


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("5", 5.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("", None),
        ("Wed, 25 Nov 2026 12:00:10 GMT", 10.0),
        ("Wed, 25 Nov 2026 11:00:00 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    now = datetime(2026, 11, 25, 12, tzinfo=UTC)
    assert parse_retry_after(value, now) == seconds


@given(st.text(max_size=40))
def test_any_header_is_read(value: str) -> None:
    found = parse_retry_after(value)
    assert found is None or found >= 0.0


@given(
    st.sampled_from(KINDS),
    st.booleans(),
    st.none() | st.integers(100, 599),
    st.integers(1, 20),
    st.integers(0, 10),
    st.none() | st.floats(0, 1e6),
)
def test_nothing_that_may_have_begun_is_ever_sent_again(
    kind, began: bool, status: int | None, tries: int, retries: int, after: float | None
) -> None:
    failure = Failure(kind, "", began, status, after)
    wait = find_wait(failure, tries, retries)
    if began or tries > retries or kind not in ("unreachable", "status"):
        assert wait is None
    if wait is not None:
        assert 0.0 <= wait <= LONGEST_WAIT_SECONDS
        assert kind == "unreachable" or status in (429, 503)
