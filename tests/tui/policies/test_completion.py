"""What may be typed at a cursor of a policy, and the help on the key there."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.routing.schema.policy_file import json_schema
from etui.tui.policies._completion import Known, complete, help_line

KNOWN = Known(json_schema(), ("smollm2-135m", "qwen3-4b"), ("balanced", "frugal"))
TEXT = """\
version: 1
models: {small: [smollm2-135m], large: [qwen3-4b]}
arms:
  quick: {model: small, reasoning: direct}   # the one that answers
  careful:
    model: large
    reasoning: cot
signals:
  long: {tokens: {at_least: 250}}
  hard: {score: {long: 1}, bands: {easy: {below: 0.3}, tough: {at_least: 0.3}}}
rules:
  - name: long-questions
    priority: 100
    when: {all: [long, {not: hard.easy}]}
    use: careful
  - name: everything-else
    use: quick
"""


def at_cursor(text: str) -> tuple[str, int, int]:
    """Take the ``|`` out of a text; returns the text and its row and column."""
    before, after = text.split("|")
    return before + after, before.count("\n"), len(before.rpartition("\n")[2])


def offered(text: str) -> list[str]:
    """The words that the typed part may become."""
    plain, row, column = at_cursor(text)
    start = re.search(r"[\w.@-]*$", plain.split("\n")[row][:column])
    assert start is not None
    return [start[0] + rest.removesuffix(": ") for rest in complete(plain, row, column, KNOWN)]


def test_keys_of_the_file_are_offered_but_not_those_it_has() -> None:
    assert "probes" in offered(TEXT + "|")
    assert not {"arms", "version"} & set(offered(TEXT + "|"))
    assert complete(*at_cursor(TEXT + "fall|"), KNOWN) == ["backs: "]


def test_keys_of_an_arm_in_a_block_and_in_brackets() -> None:
    assert offered("arms:\n  quick:\n    th|") == ["think_tokens"]
    assert offered("arms:\n  quick: {model: small, th|}") == ["think_tokens"]
    assert offered("arms:\n  quick: {model: small, th|") == ["think_tokens"]
    assert "model" not in offered("arms:\n  quick: {model: small, |}")
    assert "seed" in offered("arms:\n  quick: {\n    model: small,\n    |\n  }")
    assert "reasoning" in offered("arms:\n  quick:\n    model: small\n    |")


def test_values_of_a_key_are_those_of_the_schema() -> None:
    assert offered("arms:\n  quick: {reasoning: |}") == ["direct", "cot", "vote"]
    assert offered("arms:\n  quick:\n    reasoning: v|") == ["vote"]
    assert offered("arms:\n  quick: {loop_guard: |}") == ["true", "false"]
    assert offered("arms:\n  a: {stop: {rule: f|}}") == ["flip"]


def test_roles_come_before_models() -> None:
    assert offered(TEXT.replace("model: large", "model: |")) == [
        "small", "large", "smollm2-135m", "qwen3-4b",
    ]  # fmt: skip
    assert offered("models:\n  small: [|]") == ["smollm2-135m", "qwen3-4b"]
    assert offered("models:\n  small:\n    - qw|") == ["qwen3-4b"]


@pytest.mark.parametrize(
    "place",
    [
        "rules:\n  - use: |",
        "rules:\n  - cascade: {arms: [|]}",
        "rules:\n  - cascade: {arms: [{agree: [|]}]}",
        "rules:\n  - name: x\n    arms:\n      - |",
        "fallbacks: {load_failed: |}",
        "probes:\n  - {query: 'a, b: c', arm: |}",
    ],
)
def test_arms_are_offered_wherever_one_is_named(place: str) -> None:
    arms = TEXT[TEXT.index("arms:") : TEXT.index("signals:")]
    found = [name for name in offered(arms + place) if name not in ("agree", "accept")]
    assert found == ["quick", "careful"]


@pytest.mark.parametrize(
    "when", ["when: |", "when: {all: [|]}", "when: {any: [long, {not: |}]}", "when:\n      not: |"]
)
def test_signals_and_bands_are_offered_in_conditions(when: str) -> None:
    signals = TEXT[TEXT.index("signals:") : TEXT.index("rules:")]
    found = offered(f"{signals}rules:\n  - name: x\n    {when}")
    assert [name for name in found if name not in ("all", "any", "not")] == [
        "long", "hard.easy", "hard.tough",
    ]  # fmt: skip


def test_a_key_that_has_its_colon_gets_no_second_one() -> None:
    assert complete(*at_cursor("arms:\n  a: {reas|: cot}"), KNOWN) == ["oning"]


def test_nothing_is_offered_in_comments_text_and_finished_words() -> None:
    assert offered("# arm|") == []
    assert offered("arms: # re|") == []
    assert offered("description: >-\n  arms|") == []
    assert offered("arms:\n  a: {reasoning: direct|}") == []


def test_the_help_names_the_type_and_what_is_allowed() -> None:
    def help_at(text: str) -> str:
        return help_line(*at_cursor(text), KNOWN)

    assert help_at("arms:\n  a: {thi|nk_tokens: 5}").startswith(
        "think_tokens · whole number, 0 to 100,000 · Thinking budget"
    )
    assert help_at(TEXT.replace("use: quick", "use: qu|ick")) == (
        "use · quick, careful · The arm that answers."
    )
    assert help_at("arms:\n  a: {reasoning: co|t}").startswith(
        "reasoning · direct, cot, vote, default direct · "
    )
    assert help_at("|arms:\n").startswith("arms · mapping · Arm -> how it answers.")
    assert help_at("nonsense|: 3") == ""
    assert help_at("# com|ment") == ""


def test_a_fault_elsewhere_offers_nothing() -> None:
    assert offered("arms: {a: ]}\nfall|") == []


PIECES = st.sampled_from(
    ["arms", ":", " ", "  ", "\n", "- ", "-", "{", "}", "[", "]", ",", "'", '"', "#", "|", ">",
     "model", "rules", "when", "not", "all", "\\", "é", "\t", "\r", "{{", ": ", "signals", "0"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=60), st.integers(-2, 12), st.integers(-2, 60))
def test_no_text_and_no_cursor_raises(pieces: list[str], row: int, column: int) -> None:
    text = "".join(pieces)
    help_line(text, row, column, KNOWN)
    complete(text, row, column, KNOWN)
