"""What may be typed at a cursor of a policy, and the help on the key there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.config.config import shipped_dir
from etui.routing.schema.policy_file import json_schema
from etui.tui.policies.completion import KnownNames, complete, help_line
from etui.tui.policies.outline import find_spot, read_outline

SCHEMA = json_schema()
NAMES = KnownNames(models=("smollm2-135m", "qwen3-4b"), policies=("balanced", "frugal"))
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
    found = complete(*at_cursor(text), SCHEMA, NAMES)
    return [] if found is None else [one.text for one in found.candidates]


def typed(text: str, choose: str) -> str:
    """The text after a candidate was taken."""
    plain, row, column = at_cursor(text)
    found = complete(plain, row, column, SCHEMA, NAMES)
    assert found is not None
    (taken,) = [one for one in found.candidates if one.text == choose]
    lines = plain.split("\n")
    lines[row] = lines[row][: found.start] + taken.insert + lines[row][found.end :]
    return "\n".join(lines)


def test_keys_of_the_file_are_offered_but_not_those_it_has() -> None:
    assert "probes" in offered(TEXT + "|")
    assert not {"arms", "version"} & set(offered(TEXT + "|"))
    assert offered(TEXT + "fall|") == ["fallbacks"]
    assert typed(TEXT + "fall|", "fallbacks") == TEXT + "fallbacks: "


def test_keys_of_an_arm_in_a_block_and_in_brackets() -> None:
    assert offered("arms:\n  quick:\n    th|") == ["think_tokens"]
    assert offered("arms:\n  quick: {model: small, th|}") == ["think_tokens"]
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


def test_a_key_that_is_edited_keeps_its_colon() -> None:
    assert typed("arms:\n  a: {reas|oning: cot}", "reasoning") == "arms:\n  a: {reasoning: cot}"


def test_nothing_is_offered_in_comments_text_and_finished_words() -> None:
    assert offered("# arm|") == []
    assert offered("arms: # re|") == []
    assert offered("description: >-\n  arms|") == []
    assert offered("arms:\n  a: {reasoning: direct|}") == []


def test_the_help_names_the_type_and_what_is_allowed() -> None:
    def help_at(text: str) -> str:
        return help_line(*at_cursor(text), SCHEMA, NAMES)

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


def test_the_outline_knows_names_in_blocks_and_brackets() -> None:
    outline = read_outline(TEXT)
    assert outline.names("arms") == ("quick", "careful")
    assert outline.names("signals", "hard", "bands") == ("easy", "tough")
    assert outline.values[("rules", 1, "name")] == "everything-else"
    assert outline.values[("arms", "quick", "model")] == "small"
    assert outline.values[("models", "large", 0)] == "qwen3-4b"


def test_the_outline_of_a_shipped_policy_is_that_of_the_parser() -> None:
    from etui.yaml.tree import parse_tree

    for name in ("balanced", "frugal", "best"):
        text = (shipped_dir() / "policies" / f"{name}.yaml").read_text(encoding="utf-8")
        data = parse_tree(text, name).data
        outline = read_outline(text)
        for section in ("models", "arms", "signals"):
            assert outline.names(section) == tuple(data[section])
            for key, value in data[section].items():
                if isinstance(value, dict):
                    assert outline.names(section, key) == tuple(value)
        names = tuple(outline.values[("rules", n, "name")] for n in range(len(data["rules"])))
        assert names == tuple(rule["name"] for rule in data["rules"])


PIECES = st.sampled_from(
    ["arms", ":", " ", "  ", "\n", "- ", "-", "{", "}", "[", "]", ",", "'", '"', "#", "|", ">",
     "model", "rules", "when", "not", "all", "\\", "é", "\t", "\r", "{{", ": ", "signals", "0"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=60), st.integers(-2, 12), st.integers(-2, 60))
def test_no_text_and_no_cursor_raises(pieces: list[str], row: int, column: int) -> None:
    text = "".join(pieces)
    find_spot(text, row, column)
    help_line(text, row, column, SCHEMA, NAMES)
    complete(text, row, column, SCHEMA, NAMES)


@given(st.data())
def test_every_cursor_of_a_policy_has_a_completion_that_fits(data: st.DataObject) -> None:
    lines = TEXT.split("\n")
    row = data.draw(st.integers(0, len(lines) - 1))
    column = data.draw(st.integers(0, len(lines[row])))
    found = complete(TEXT, row, column, SCHEMA, NAMES)
    if found is not None:
        assert 0 <= found.start <= column <= found.end <= len(lines[row])
        before = lines[row][found.start : column].casefold()
        assert all(before in one.text.casefold() for one in found.candidates)
