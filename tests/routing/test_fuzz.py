"""Whatever a policy file holds: a policy comes out, or faults with a place, and quickly."""

from __future__ import annotations

import copy
import json
import time
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.chat import Query
from etui.config.config import Config, shipped_dir
from etui.errors import EtuiError
from etui.models.catalogue import load_catalogue
from etui.routing.decide import decide
from etui.routing.library import check_place, check_text
from etui.yaml.named_files import NamedFile

NAMES = ("frugal", "balanced", "best")
PLACE = NamedFile("m", Path("m.yaml"), "file")
QUESTION = Query("What is x y 17*23?")
MODELS = {"tiny", "large-8b"}

LINES = {
    name: (shipped_dir() / "policies" / f"{name}.yaml").read_text().splitlines() for name in NAMES
}


PUT_IN = (
    *("", "-1", "0", ".inf", "yes", "[", "]", "{", "}", "- ", ": ", "&a ", "*a", "!!x ", "<<: "),
    *("'", "|", "\t", "1e999", "null", "not", "\\", "\x00", "é", "(a+)+"),
)


def is_sound_or_located(text: str, models: frozenset[str] | set[str]) -> None:
    """A policy is sound, or each of its errors has a place in it and words."""
    checked = check_text(text, PLACE, models)
    assert (checked.policy is None) == bool(checked.errors)
    for problem in (*checked.errors, *checked.warnings):
        assert problem.message
        assert 1 <= problem.line <= text.count("\n") + 2
        assert problem.column >= 1
    if checked.policy is not None:
        with suppress(EtuiError):  # an objective may have lost what it takes otherwise
            decide(QUESTION, checked.policy, available=lambda _: True, every_signal=True)


@pytest.mark.parametrize("name", NAMES)
def test_every_line_left_out_doubled_or_broken(name: str, config: Config) -> None:
    models = frozenset(load_catalogue(config).models)
    lines = LINES[name]
    for index, line in enumerate(lines):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        before, after = lines[:index], lines[index + 1 :]
        half = line[: len(line) // 2]
        other = lines[(7 * index + 5) % len(lines)]
        put = (half, f"\t{line}", f"  {line}", line.removeprefix(" "), line.replace(":", "", 1))
        for changed in ([], [line, line], [other], *([each] for each in put)):
            is_sound_or_located("\n".join([*before, *changed, *after]), models)


@given(data=st.data())
def test_lines_mutated_at_random(data: st.DataObject) -> None:
    lines = list(LINES[data.draw(st.sampled_from(NAMES))])
    for _ in range(data.draw(st.integers(1, 3))):
        index = data.draw(st.integers(0, len(lines) - 1))
        line = lines[index]
        at = data.draw(st.integers(0, len(line)))
        cut = data.draw(st.integers(0, 6))
        put = data.draw(st.sampled_from(PUT_IN))
        lines[index] = line[:at] + put + line[at + cut :]
    catalogue = {"qwen3-8b", "qwen3-4b", "qwen3-0.6b", "smollm2-135m", "llama-3.2-1b"}
    is_sound_or_located("\n".join(lines), catalogue)


WHOLE: dict[str, Any] = {
    "version": 1,
    "models": {"small": ["tiny"], "large": ["large-8b", "tiny"]},
    "arms": {
        "quick": {"model": "small"},
        "think": {"model": "small", "reasoning": "cot", "early_exit": {"every": 48}},
        "vote": {"model": "large", "reasoning": "vote", "stop": {"rule": "flip", "eps": 0.05}},
    },
    "signals": {
        "a": {"keywords": ["x"]},
        "b": {"regex": "y+", "at_least": 2},
        "c": {"tokens": {"at_least": 9}},
        "d": {"score": {"a": 0.5, "b": 0.5}, "bands": {"lo": {"below": 1}, "hi": {"at_least": 1}}},
        "e": {"nearest": {"of": "log", "by": "quick"}, "at_least": 0.5},
        "f": {"host": "resident", "is": "large"},
    },
    "rules": [
        {
            "name": "one",
            "priority": 5,
            "when": {"all": ["a", {"not": {"any": ["b", "d.hi"]}}]},
            "cascade": {"arms": ["quick", "think"], "accept_at": 0.7, "max_joules": 9},
        },
        {
            "name": "two",
            "when": {"any": ["c", "e", "f"]},
            "objective": {
                "minimize": "joules",
                "accuracy": {"at_least": 0.6, "confidence": 0.9},
                "seconds": {"at_most": 20},
                "prior": {"quick": 0.5},
            },
            "arms": ["quick", "vote"],
            "switch_margin_joules": 5,
            "otherwise": "quick",
        },
        {"name": "rest", "use": "quick"},
    ],
    "budgets": {"turn": {"joules": 5}, "hour": {"joules": 50, "when_exceeded": "ask"}},
    "fallbacks": {"load_failed": "quick", "no_answer": "keep"},
    "shadow": {"policy": "frugal"},
    "probes": [{"query": "x", "rule": "one", "host": {"hour": 3}, "signals": {"a": True}}],
}


def paths_of(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else []
    items = enumerate(value) if isinstance(value, list) else items
    return [path, *(found for key, part in items for found in paths_of(part, (*path, key)))]


PATHS = [path for path in paths_of(WHOLE) if path]

junk = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-5, 10**20),
        st.floats(),
        st.sampled_from(["", "yes", "quick", "a", "d.hi", ".inf", "1e999", "two", "(a+)+$"]),
        st.text(max_size=8),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=6), st.sampled_from(["use", "all"])), inner),
    ),
    max_leaves=6,
)


def test_the_whole_language_is_sound() -> None:
    checked = check_text(json.dumps(WHOLE), PLACE, MODELS)
    assert checked.errors == ()


parts = st.sampled_from(PATHS).map(lambda path: reduce(lambda at, key: at[key], path, WHOLE))


@given(st.lists(st.tuples(st.sampled_from(PATHS), junk | parts), min_size=1, max_size=3))
def test_any_value_or_other_part_in_any_place(changes: Any) -> None:
    document: Any = copy.deepcopy(WHOLE)
    for path, value in changes:
        at = document
        with suppress(KeyError, IndexError, TypeError):  # an earlier change took the place away
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = copy.deepcopy(value)
    is_sound_or_located(json.dumps(document), MODELS)


@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    is_sound_or_located(text, MODELS)


@given(st.binary(max_size=200))
def test_any_bytes(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(raw)
    checked = check_place(NamedFile("p", path, "file"), {"tiny"})
    assert checked.policy is None
    assert all(problem.message for problem in checked.errors)


BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "alias"),
        ("[" * 5000, ""),
        ("{a: " * 5000, ""),
        ("version: 1\nversion: 1\n", "version"),
        ("version: 1\n\tarms: {}\n", "tab"),
        ("version: 99\n", "this etui reads version 1"),
        ("!!python/object/apply:os.system ['true']\n", "tag"),
        ("version: 1\n---\nversion: 1\n", "document"),
    ],
)
def test_what_is_refused_quickly(text: str, said: str) -> None:
    start = time.process_time()
    checked = check_text(text, PLACE, {"tiny"})
    assert checked.policy is None
    assert said in " ".join(problem.message for problem in checked.errors)
    assert all(problem.line >= 1 for problem in checked.errors)
    assert time.process_time() - start < 20


def test_ten_megabytes_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_bytes(b"version: 1\n" + b"# x\n" * 2_600_000)
    start = time.process_time()
    checked = check_place(NamedFile("large", path, "file"), {"tiny"})
    assert [problem.message for problem in checked.errors] == [
        "larger than 1,000,000 bytes, so it is not read"
    ]
    assert time.process_time() - start < 20  # pure Python reads it in a minute


@pytest.mark.parametrize("length", [4, 40, 400])
def test_rules_that_lie_in_a_circle_of_scores_are_said(length: int) -> None:
    signals = {
        f"s{n}": {"score": {f"s{(n + 1) % length}": 1}, "at_least": 1} for n in range(length)
    }
    document = WHOLE | {"signals": signals, "rules": [{"name": "rest", "use": "quick"}]}
    document = {key: value for key, value in document.items() if key != "probes"}
    checked = check_text(json.dumps(document), PLACE, MODELS)
    assert len(checked.errors) == length
    assert checked.errors[0].message == "score 's0' includes itself"
