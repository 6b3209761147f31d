"""Saved prompts: files with a name, variables, a system prompt and an arm."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from etui.config.config import Config
from etui.errors import InvalidFile, UsageError
from etui.prompts.library import (
    fill,
    find_bad_variables,
    find_prompt,
    find_variables,
    load_prompt,
    load_prompts,
    save_prompt,
)

SHIPPED = {"explain", "review", "summarise"}


@pytest.fixture
def folder(config: Config) -> Path:
    folder = config.home / "prompts"
    folder.mkdir(parents=True)
    return folder


def test_a_prompt_has_its_text_system_arm_and_variables(config: Config, folder: Path) -> None:
    (folder / "review.yaml").write_text(
        "text: |\n  Review {{ language }} code:\n  {{code}} {{language}}\n"
        "system: You know {{language}}.\narm: think\n"
    )
    prompt = find_prompt("review", config)
    assert prompt.variables == ("language", "code")
    filled = prompt.filled({"language": "Zig", "code": "{{language}}"})
    assert filled.text == "Review Zig code:\n{{language}} Zig", "a value is not filled again"
    assert filled.system == "You know Zig."
    assert filled.arm == "think"


def test_three_prompts_are_shipped_and_one_of_the_user_replaces_its_namesake(
    config: Config, folder: Path
) -> None:
    shipped = load_prompts(config)
    assert set(shipped.prompts) == SHIPPED
    assert not shipped.problems
    assert all(not prompt.variables for prompt in shipped.prompts.values())
    (folder / "review.yaml").write_text("text: mine\n")
    assert find_prompt("review", config).text == "mine"
    assert set(load_prompts(config).prompts) == SHIPPED


@given(st.text(min_size=1))
def test_a_saved_text_is_read_back(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    home = tmp_path_factory.mktemp("home")
    config = Config(home=home, models_dir=home)
    assume(text.strip() and not find_bad_variables(text))
    assert load_prompt(save_prompt(config, "x", text)).text == text.strip()


def test_a_prompt_is_not_saved_over_another_nor_with_a_bad_name(config: Config) -> None:
    save_prompt(config, "x", "text")
    with pytest.raises(UsageError, match="already"):
        save_prompt(config, "x", "text")
    with pytest.raises(UsageError, match="is no name"):
        save_prompt(config, "../x", "text")
    with pytest.raises(UsageError, match="is no variable"):
        save_prompt(config, "y", "{{1}}")


def test_without_the_folder_there_are_only_those_of_etui(config: Config) -> None:
    assert set(load_prompts(config).prompts) == SHIPPED
    with pytest.raises(UsageError, match="no prompt 'x'"):
        find_prompt("x", config)


def test_a_name_in_the_file_comes_before_that_of_the_file(config: Config, folder: Path) -> None:
    (folder / "1 odd file.yaml").write_text("name: tidy\ntext: x\n")
    assert set(load_prompts(config).prompts) == {"tidy", *SHIPPED}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("txet: hi\n", 1, "text"),
        ("text: hi\nsytem: x\n", 2, "did you mean 'system'"),
        ("text: [1]\n", 1, "text"),
        ("text: ''\n", 1, "text"),
        ("text: '  '\n", 1, "is empty"),
        ("text: |\n  hi\nname: a b\n", 3, "name"),
        ("text: x {{1st}}\n", 1, "{{1st}} is no variable"),
        ("text: x\nsystem: a {{ b c }}\n", 2, "{{b c}} is no variable"),
        ("text: [\n", 2, ""),
        ("", 1, ""),
        ("- a\n", 1, ""),
    ],
)
def test_a_broken_file_is_named_with_its_line_and_leaves_the_others(
    config: Config, folder: Path, text: str, line: int, words: str
) -> None:
    (folder / "bad.yaml").write_text(text)
    (folder / "good.yaml").write_text("text: hi\n")
    library = load_prompts(config)
    assert set(library.prompts) == {"good", *SHIPPED}
    problem = library.problems[0]
    assert problem.file.endswith("bad.yaml")
    assert problem.line in (line, line - 1)
    assert words in problem.message
    with pytest.raises(InvalidFile):
        find_prompt("bad", config)


def test_two_files_of_one_name_and_bytes_are_named(config: Config, folder: Path) -> None:
    (folder / "a.yaml").write_text("name: x\ntext: 1st\n")
    (folder / "b.yaml").write_text("name: x\ntext: 2nd\n")
    (folder / "c.yaml").write_bytes(b"text: \xff\n")
    (folder / "d e.yaml").write_text("text: hi\n")
    library = load_prompts(config)
    assert library.prompts["x"].text == "1st"
    said = [str(problem) for problem in library.problems]
    assert len(said) == 3
    assert "a.yaml already" in said[0]
    assert "not UTF-8" in said[1]
    assert "no name for a prompt" in said[2]


def test_values_that_are_missing_or_unknown_are_refused(config: Config, folder: Path) -> None:
    (folder / "t.yaml").write_text("text: '{{language}} {{tone}}'\n")
    prompt = find_prompt("t", config)
    with pytest.raises(UsageError, match="needs a value for tone"):
        prompt.filled({"language": "en"})
    with pytest.raises(UsageError, match="no variable 'langauge', did you mean 'language'"):
        prompt.filled({"langauge": "en"})
    with pytest.raises(UsageError, match="no prompt 'tt'"):
        find_prompt("tt", config)


@given(st.dictionaries(st.from_regex(r"\A[a-z_]{1,5}\Z"), st.text(max_size=20), max_size=4))
def test_every_variable_is_filled_once_and_values_stay_as_they_are(values: dict[str, str]) -> None:
    text = " ".join(f"<{{{{{name}}}}}>" for name in values)
    assert find_variables(text) == tuple(values)
    assert fill(text, values) == " ".join(f"<{value}>" for value in values.values())


@given(st.text(max_size=100))
def test_a_text_is_only_changed_where_a_variable_stands(text: str) -> None:
    find_bad_variables(text)
    assert fill(text, {}) == text
