"""The parts of responses that follow from a record: nothing unmeasured becomes 0."""

from __future__ import annotations

import json

import pytest

from etui.arm import Arm
from etui.errors import (
    EngineFailed,
    EtuiError,
    InvalidRequest,
    ModelUnavailable,
    RemoteFailed,
    UsageError,
)
from etui.events import TokenLogprob
from etui.routing.decision import Decision
from etui.server.deltas import finish_reason
from etui.server.documents import (
    completion_logprobs,
    encode,
    energy_document_of,
    headers_of,
    logprob_document,
    route_document,
    timings_document,
    usage_document,
)
from etui.server.errors import to_api_error
from etui.turn.record import HopRecord, Seconds, Tokens


def test_energy_has_the_keys_of_ask_and_those_of_neuralwatt(make_turn) -> None:
    turn = make_turn()
    document = energy_document_of(turn)
    asked = turn.to_json()["energy"]
    assert {name: document[name] for name in asked} == asked
    assert document["energy_joules"] == turn.energy.joules
    assert document["energy_kwh"] == pytest.approx(turn.energy.joules / 3.6e6)


def test_what_is_unmeasured_is_null(make_turn) -> None:
    document = energy_document_of(make_turn(joules=None))
    for name in ("joules", "energy_joules", "energy_kwh", "avg_power_watts"):
        assert document[name] is None
    assert "x-energy-joules" not in headers_of(None, make_turn(joules=None))


def test_a_turn_without_time_has_no_rates(make_turn) -> None:
    turn = make_turn(tokens=Tokens(0, 0, 0, 0, 0), seconds=Seconds(0.0, 0.0, 0.0, 0.0, None))
    timings = timings_document(turn)
    assert timings["prompt_per_second"] is None
    assert timings["predicted_per_token_ms"] is None
    assert energy_document_of(turn)["avg_power_watts"] is None
    assert route_document(turn)["seconds"]["queue"] is None


def test_usage_is_that_of_the_answer_that_stands(make_turn) -> None:
    usage = usage_document(make_turn())
    tokens = make_turn().tokens
    assert usage["total_tokens"] == tokens.prompt + tokens.output


@pytest.mark.parametrize(
    ("status", "calls", "reason"),
    [
        ("complete", "", "stop"),
        ("complete", "[{}]", "tool_calls"),
        ("truncated", "", "length"),
        ("truncated", "[{}]", "length"),
        ("budget", "", "length"),
        ("stopped", "", "length"),
    ],
)
def test_the_five_statuses_as_finish_reasons(status: str, calls: str, reason: str) -> None:
    assert finish_reason(status, calls) == reason


def test_a_part_of_a_character_has_its_bytes() -> None:
    document = logprob_document(TokenLogprob(0, (0xC3,), -0.5, (((0x41,), -1.0),)))
    assert document["bytes"] == [0xC3]
    assert document["token"] == "\N{REPLACEMENT CHARACTER}"
    assert document["top_logprobs"] == [{"token": "A", "logprob": -1.0, "bytes": [65]}]


def test_offsets_of_completions_count_characters() -> None:
    logprobs = [TokenLogprob(0, tuple(word.encode()), -1.0) for word in ("Mä", "rs")]
    assert completion_logprobs(logprobs, 3)["text_offset"] == [3, 5]


def test_headers_are_ascii_whatever_a_policy_is_called() -> None:
    decision = Decision(Arm("schnell\r\nx: y", "m"), "p", "Prüfung\n", "why")
    headers = headers_of(decision)
    assert all(value.isascii() and value.isprintable() for value in headers.values())


def test_a_record_with_half_a_surrogate_is_sent_nevertheless() -> None:
    assert json.loads(encode({"a": "\ud800"})) == {"a": "?"}


@pytest.mark.parametrize(
    ("error", "status", "shown"),
    [
        (ModelUnavailable("no file /home/me/models/a.gguf here"), 503, "no file …/a.gguf here"),
        (
            ModelUnavailable("desk is off", "start the server at http://desk:8080/v1, and ask"),
            503,
            "desk is off; start the server at …, and ask",
        ),
        (
            UsageError("a/b is no arm", "see ~/p/x.yaml"),
            400,
            "a/b is no arm; see …/x.yaml",
        ),
        (RemoteFailed("http://desk:8080/v1 timed out"), 502, "http://desk:8080/v1 timed out"),
        (InvalidRequest("no", param="tools[0]"), 400, "no"),
        (InvalidRequest("none", "see GET /v1/models", "model"), 404, "none; see GET /v1/models"),
        (EtuiError("secret"), 500, "the request failed; see the server's log"),
        (ValueError("secret"), 500, "internal error"),
    ],
)
def test_errors_say_what_is_wrong_without_folders(error, status, shown) -> None:
    api = to_api_error(error)
    assert (api.status, api.message) == (status, shown)


@pytest.mark.parametrize("kind", [EngineFailed, EtuiError])
def test_the_log_sends_no_escape_sequences_to_the_terminal(kind, caplog) -> None:
    to_api_error(kind("end of its log: \x1b]0;owned\x07\x1b[2J r1 ::=\nmore"))
    (record,) = caplog.records
    assert record.getMessage().isprintable()
    assert "r1 ::=" in record.getMessage()


def test_the_replaced_hop_counts_for_the_energy_and_not_for_usage(make_turn) -> None:
    hops = (hop("quick", 3, taken=False), hop("large", 5, taken=True))
    turn = make_turn(hops=hops, tokens=Tokens(40, 0, 40, 0, 8))
    assert usage_document(turn)["completion_tokens"] == 5
    assert timings_document(turn)["predicted_n"] == 8
    route = route_document(turn)
    assert [(each["arm"], each["tokens"], each["taken"]) for each in route["hops"]] == [
        ("quick", 3, False),
        ("large", 5, True),
    ]


def hop(arm: str, output: int, *, taken: bool) -> HopRecord:
    return HopRecord(
        arm=arm,
        model="m",
        model_sha256=None,
        reasoning="direct",
        answer="Mars.",
        status="complete",
        confidence=None,
        margin=None,
        probability=None,
        accepted=taken,
        taken=taken,
        tokens=Tokens(20, 0, 20, 0, output),
        joules=None,
        uncertainty=None,
        load_joules=0.0,
        seconds=1.0,
        why="",
    )
