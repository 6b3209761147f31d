"""Reading YAML: every fault has a place and words, and nothing else ever comes out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from etui.errors import ExitCode, InvalidFile, Problem
from etui.yaml.load import Located, Strict, load_yaml, parse_yaml, refuse
from etui.yaml.tree import Mark, YamlError, parse_tree


class Budget(Strict):
    joules: Annotated[float, Field(gt=0)] | None = None
    when: Literal["degrade", "refuse"] = "degrade"


class Thing(Strict):
    name: str
    count: int = 0
    layers: Annotated[int, Field(ge=0)] | Literal["auto", "all"] = "auto"
    tags: tuple[str, ...] = ()
    budgets: Mapping[str, Budget] = Field(default_factory=dict)
    one: Budget | None = None

    @model_validator(mode="after")
    def _first(self) -> Thing:
        if "bad" in self.budgets:
            refuse("no budget may be called 'bad'", "budgets", "bad")
        return self


def faults(text: str) -> list[str]:
    with pytest.raises(InvalidFile) as caught:
        parse_yaml(text, Thing, file="f.yaml")
    assert caught.value.exit_code == ExitCode.USAGE
    assert caught.value.what.splitlines() == [str(p) for p in caught.value.problems]
    assert caught.value.fix
    return caught.value.what.splitlines()


def test_content_and_places():
    text = "# comment\nname: a\ncount: 3\ntags:\n  - x\n  - y\nbudgets:\n  hour: {joules: 5}\n"
    found = parse_yaml(text, Thing, file="f.yaml")
    assert found.model == Thing(
        name="a", count=3, tags=("x", "y"), budgets={"hour": Budget(joules=5.0)}
    )
    assert found.where(("name",)) == Mark(2, 7)
    assert found.where(("tags", 1)) == Mark(6, 5)
    assert found.where_key(("budgets", "hour", "joules")) == Mark(8, 10)
    assert found.where(("budgets", "day")) == found.where(("budgets",)), "nearest parent"
    assert str(found.problem(("tags", 0), "odd")) == "f.yaml:5:5: odd"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("name: a\ncuont: 1\n", "f.yaml:2:1: unknown key 'cuont', did you mean 'count'?"),
        ("count: 1\n", "f.yaml:1:1: missing key 'name'"),
        ("", "f.yaml:1:1: missing key 'name'"),
        ("- a\n", "f.yaml:1:1: expected a mapping {key: value}, found a list"),
        ("name: 5\n", "f.yaml:1:7: name: expected text, found 5"),
        ("name:\n", "f.yaml:1:6: name: expected text, found nothing"),
        ("name: a\ncount: '5'\n", "f.yaml:2:8: count: expected a whole number, found '5'"),
        ("name: a\ncount: 1.5\n", "f.yaml:2:8: count: expected a whole number, found 1.5"),
        ("name: a\ncount: yes\n", "f.yaml:2:8: count: expected a whole number, found 'yes'"),
        ("name: a\ntags: x\n", "f.yaml:2:7: tags: expected a list [a, b], found 'x'"),
        (
            "name: a\nbudgets: {hour: {joules: 0}}\n",
            "f.yaml:2:26: joules: must be greater than 0.0, found 0",
        ),
        (
            "name: a\nbudgets: {hour: {joules: .inf}}\n",
            "f.yaml:2:26: joules: expected a finite number, found inf",
        ),
        (
            "name: a\nbudgets: {hour: {joules: -.inf}}\n",
            "f.yaml:2:26: joules: expected a finite number, found -inf",
        ),
        (
            "name: a\nbudgets: {hour: {joules: .nan}}\n",
            "f.yaml:2:26: joules: expected a finite number, found nan",
        ),
        (
            "name: a\nbudgets: {hour: {joules: 1e400}}\n",
            "f.yaml:2:26: joules: expected a finite number, found inf",
        ),
        (
            "name: a\nbudgets: {hour: {joules: 1e300}}\n",
            "f.yaml:2:26: the number 1e300 is too large; quote it if it is text",
        ),
        (
            f"name: a\ncount: -{'9' * 300}\n",
            f"f.yaml:2:8: the number -{'9' * 26}... is too large; quote it if it is text",
        ),
        ("name: a\ncount: .nan\n", "f.yaml:2:8: count: expected a whole number, found nan"),
        (
            "name: a\nbudgets: {hour: {when: degrad}}\n",
            "f.yaml:2:24: when: 'degrad' is not one of degrade, refuse, did you mean 'degrade'?",
        ),
        (
            "name: a\nbudgets: {hour: {jouls: 1}}\n",
            "f.yaml:2:18: unknown key 'jouls', did you mean 'joules'?",
        ),
        ("name: a\none: {jouls: 1}\n", "f.yaml:2:7: unknown key 'jouls', did you mean 'joules'?"),
        ("name: a\nbudgets: {bad: {}}\n", "f.yaml:2:16: no budget may be called 'bad'"),
        ("name: a\nname: b\n", "f.yaml:2:1: duplicate key 'name', first on line 1"),
        ("name: a\nbudgets:\n\thour: {}\n", "f.yaml:3:1: a tab; indent YAML with spaces"),
        (
            "name: a\n---\nname: b\n",
            "f.yaml:2:1: a second document begins here; a file may hold only one",
        ),
        ("name: &x [*x]\n", "f.yaml:1:11: *x refers to itself"),
        ("name: *x\n", "f.yaml:1:7: *x has no anchor &x before it"),
        ("<<: {name: a}\n", "f.yaml:1:1: merge keys (<<) are not supported; write the keys out"),
        ("? [a]\n: b\n", "f.yaml:1:3: a key must be text, not a list or a mapping"),
        ("name: a\x00\n", "f.yaml:1:8: character U+0000 is not allowed"),
        ("name: a\n\nx\x07\n", "f.yaml:3:2: character U+0007 is not allowed"),
    ],
)
def test_each_fault_has_its_place(text, fault):
    assert faults(text) == [fault]


def test_all_faults_of_a_file_are_told_in_order():
    text = "nane: a\ncount: x\nlayers: some\nbudgets: {hour: {joules: -1, wen: degrade}}\n"
    assert faults(text) == [
        "f.yaml:1:1: unknown key 'nane', did you mean 'name'?",
        "f.yaml:1:1: missing key 'name'",
        "f.yaml:2:8: count: expected a whole number, found 'x'",
        "f.yaml:3:9: layers: expected a whole number, found 'some'; also allowed: auto, all",
        "f.yaml:4:26: joules: must be greater than 0.0, found -1",
        "f.yaml:4:30: unknown key 'wen', did you mean 'when'?",
    ]


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!binary", "!x", "!!str"])
def test_tags_are_refused(tag):
    (fault,) = faults(f"name: {tag} 'true'\n")
    assert fault.startswith("f.yaml:1:7: tag ")


def test_syntax_faults_are_located():
    (fault,) = faults("name: a\ntags: [x, y\ncount: 1\n")
    assert fault.startswith("f.yaml:3:")
    (fault,) = faults("name: 'never closed\n\n")
    assert "f.yaml:" in fault
    assert "a quote is not closed" in fault


@pytest.mark.parametrize("word", ["no", "yes", "on", "off", "2024-01-01", "12:30", "1_000", "0b1"])
def test_plain_words_stay_text(word):
    assert parse_yaml(f"name: {word}\n", Thing, file="f").model.name == word


@pytest.mark.parametrize(
    ("text", "number"), [("1e3", 1000.0), ("0.5", 0.5), (".5", 0.5), ("7", 7.0), ("+3.", 3.0)]
)
def test_numbers(text, number):
    found = parse_yaml(f"name: a\none: {{joules: {text}}}\n", Thing, file="f").model.one
    assert found.joules == number


def test_aliases_are_plain_values():
    text = "name: a\nbudgets: {hour: &b {joules: 5}, day: *b}\n"
    model = parse_yaml(text, Thing, file="f").model
    assert model.budgets["day"] == model.budgets["hour"] == Budget(joules=5.0)


def test_alias_bombs_are_refused():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    (fault,) = faults("\n".join(lines))
    assert "with every alias expanded" in fault
    long = "a: &a '" + "x" * 500_000 + "'\nb: [" + ", ".join(["*a"] * 5000) + "]\n"
    (fault,) = faults(long)
    assert "with every alias expanded" in fault


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_depth_is_bounded(opening):
    (fault,) = faults(opening * 5000)
    assert "f.yaml:1:" in fault


def test_tabs_inside_text_are_content():
    assert parse_yaml("name: |\n  a\n  \tb\n", Thing, file="f").model.name == "a\n\tb\n"
    assert parse_yaml("name: 'a\n\t b'\n", Thing, file="f").model.name == "a b"
    assert parse_yaml("name: a\t# said\n\ncount: 1\n", Thing, file="f").model.count == 1
    assert faults("name: |\n  a\n\tb: 1\n")[0].startswith("f.yaml:3:1: a tab")


class TestFiles:
    def load(self, path: Path) -> InvalidFile:
        with pytest.raises(InvalidFile) as caught:
            load_yaml(path, Thing)
        return caught.value

    def test_good(self, tmp_path):
        path = tmp_path / "a.yaml"
        path.write_bytes("\ufeffname: Straße\r\ncount: 2\r\n".encode())
        found: Located[Thing] = load_yaml(path, Thing)
        assert found.model == Thing(name="Straße", count=2)
        assert found.where(("count",)) == Mark(2, 8)

    def test_missing_and_folder(self, tmp_path):
        path = tmp_path / "a.yaml"
        assert self.load(path).what == f"{path}: no such file"
        assert self.load(tmp_path).what == f"{tmp_path}: not a file"
        assert "cannot be read" in self.load(tmp_path / ("x" * 5000)).what
        assert self.load(Path("nul\0byte")).exit_code == ExitCode.USAGE

    def test_large_file(self, tmp_path):
        path = tmp_path / "a.yaml"
        path.write_text("name: a\n" + "# x\n" * 2_600_000)
        assert self.load(path).what.endswith("larger than 1,000,000 bytes, so it is not read")

    def test_not_utf8(self, tmp_path):
        path = tmp_path / "a.yaml"
        path.write_bytes(b"count: 1\nname: caf\xe9\n")
        assert self.load(path).what == f"{path}:2:10: byte 0xe9 is not UTF-8 text"
        path.write_bytes("name: a".encode("utf-16"))
        assert ":1:1: byte 0xff is not UTF-8" in self.load(path).what


def check_never_anything_else(text: str) -> None:
    problems: tuple[Problem, ...] = ()
    try:
        found = parse_yaml(text, Thing, file="f.yaml")
    except InvalidFile as error:
        problems = error.problems
    else:
        assert isinstance(found.model, Thing)
        return
    assert problems
    lines = 2 + sum(text.count(end) for end in "\n\r\x85\u2028\u2029")
    for problem in problems:
        assert problem.message
        assert 1 <= problem.line <= lines
        assert problem.column >= 1


@given(st.text())
def test_any_text(text):
    check_never_anything_else(text)


@given(st.text(alphabet="naemcout:[]{}&*!|>-?'\"#%@`,\n \t<=~0.5\\xud8", max_size=80))
def test_yaml_like_text(text):
    check_never_anything_else(text)


_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["name", "count", "layers", "tags", "budgets", "one", "joules", "when"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(_data)
def test_any_data(data):
    import yaml

    check_never_anything_else(yaml.safe_dump(data, allow_unicode=True))


@given(_data)
def test_without_libyaml(data):
    import yaml

    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(yaml, "CSafeLoader", raising=False)
        check_never_anything_else(yaml.safe_dump(data, allow_unicode=True))


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("text: [broken\n", 2, "a `[` is not closed: `,` or `]` is missing (started on line 1)"),
        ("a: {b: 1\nc: 2\n", 2, "a `{` is not closed"),
        ("arms: {\n", 2, "a `[` or `{` is not closed"),
        ("a: 'open\nb: 2\n", 3, "a quote is not closed (started on line 1)"),
        ("a: one: two\n", 1, "quote a text with `: ` in it"),
        ("a:\n  - x\n y: 1\n", 3, "belongs to no key above it: check its indentation"),
        ("a: @x\n", 1, "quote it"),
        ("- a\nb: 1\n", 2, "no `-` as above"),
        ("a: |\n x\nfoo\n", 4, "a `:` is missing after the key"),
    ],
)
def test_broken_syntax_is_told_in_the_words_of_a_file(text, line, said):
    with pytest.raises(YamlError) as caught:
        parse_tree(text, "a.yaml")
    problem = caught.value.problems[0]
    assert problem.line == line
    assert said in problem.message
    assert "did not find" not in problem.message
