"""The documents say what the code does."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
import yaml

from etui.cli.main import _COMMANDS, cli
from etui.models.catalogue import load_catalogue

CHECKOUT = Path(__file__).parent.parent
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")


def commands(group: click.Group, path: str = "etui"):
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


ALL = dict(commands(cli))


def test_the_readme_is_short_and_has_one_picture():
    assert len(README.splitlines()) <= 150
    assert README.count("![") == 1


DOCUMENTS = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", CHECKOUT / "CHANGELOG.md"]
DOCUMENTS += sorted((CHECKOUT / "docs").glob("*.md"))
DOCUMENTS += [CHECKOUT / "benchmarks" / "README.md", CHECKOUT / "tests" / "contract" / "README.md"]
DOCUMENTS += [CHECKOUT / "data" / "seed" / "README.md"]


def list_anchors(document: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda document: str(document.relative_to(CHECKOUT))
)
def test_what_the_documents_link_to_exists(document):
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            target, _, anchor = link.partition("#")
            page = document.parent / target if target else document
            assert page.exists(), f"{document.name}: {link}"
            assert not anchor or anchor in list_anchors(page), f"{document.name}: {link}"


def test_the_first_page_leads_to_every_other_one():
    first = CHECKOUT / "docs" / "index.md"
    linked = set(re.findall(r"\]\(([\w-]+\.md)", first.read_text(encoding="utf-8")))
    pages = {path.name for path in (CHECKOUT / "docs").glob("*.md")}
    assert pages - {"index.md"} == linked
    assert len(pages - {"cli.md"}) <= 21


def list_pages(nav: Iterable[object]) -> Iterator[str]:
    """List the pages of a ``nav`` of mkdocs, those of its sections too."""
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, dict):
            for value in entry.values():
                yield from [value] if isinstance(value, str) else list_pages(value)


def test_the_site_has_every_page_once():
    nav = yaml.safe_load((CHECKOUT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    pages = {path.name for path in (CHECKOUT / "docs").glob("*.md")}
    pages |= {"contributing.md", "changelog.md", "security.md"}  # pages of the root, by the hook
    assert sorted(list_pages(nav)) == sorted(pages)


@pytest.mark.skipif(find_spec("material") is None, reason="mkdocs-material is not installed")
def test_the_site_is_built_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")],
        cwd=CHECKOUT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "tour" / "index.html").is_file()


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_first_ten_lines_show_etui_and_how_to_get_it(page):
    first = (CHECKOUT / page).read_text(encoding="utf-8").splitlines()[:10]
    (command,) = (line for line in first if "pip install" in line)
    assert command in README
    assert any(line.startswith("![") for line in first)


def test_both_first_pages_have_the_same_begin():
    first = (CHECKOUT / "docs" / "index.md").read_text(encoding="utf-8").splitlines()[:10]
    assert first == README.replace("](docs/", "](").splitlines()[:10]


def test_every_command_is_in_the_readme():
    assert [name for name in _COMMANDS if f"`etui {name}`" not in README] == []


def test_every_command_and_option_has_help():
    for path, command in ALL.items():
        assert command.help, path
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{path} {parameter.opts[0]}"


def test_examples_in_the_help_keep_their_lines():
    for path, command in {"etui": cli, **ALL}.items():
        assert "\\b" not in command.help, path  # in a raw docstring, click's marker would be text


def test_the_line_in_the_help_is_the_commands_own():
    shown = {name: ALL[f"etui {name}"].get_short_help_str(200) for name in _COMMANDS}
    assert shown == dict(_COMMANDS)


def test_every_setting_is_documented():
    from etui.config.schema import Settings

    table = (CHECKOUT / "docs" / "config.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert documented == list(Settings.model_fields)


def test_shipped_policies_name_shipped_models(config):
    from etui.routing.library import list_policies, load_policy

    catalogue = load_catalogue(config)
    places = list_policies(config)
    assert {place.name for place in places} >= {"frugal", "balanced", "best"}
    for place in places:
        policy = load_policy(place.name, config, catalogue.models)
        assert policy.description
        for arm in policy.arms.values():
            assert set(arm.models) <= set(catalogue.models)


def test_the_policy_of_the_readme_is_valid(config, tmp_path):
    from etui.routing.library import load_policy

    (text,) = re.findall(r"```yaml\n(version: 1.*?)```", README, re.DOTALL)
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    policy = load_policy(str(file), config, load_catalogue(config).models)
    assert [rule.name for rule in policy.rules] == ["numbers", "everything-else"]


def test_names_of_this_contract_ship(config):
    catalogue = load_catalogue(config)
    for name in ("smollm2-135m", "gemma-3-270m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"):
        assert catalogue.get(name).sha256 is not None
    for name in ("qwen3-0.6b", "qwen3-8b", "llama-3.2-1b", "llama-3.1-8b", "gemma-3-4b"):
        assert name in catalogue


GENERATED = runpy.run_path(str(CHECKOUT / "docs" / "generate.py"))["FILES"]


@pytest.mark.parametrize("name", list(GENERATED))
def test_generated_files_are_up_to_date(name):
    written = (CHECKOUT / name).read_text(encoding="utf-8")
    assert written == GENERATED[name](), "run: python docs/generate.py"


def test_every_package_is_in_the_architecture():
    text = (CHECKOUT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    packages = {path.parent.name for path in (CHECKOUT / "etui").glob("*/__init__.py")}
    assert rows == packages


def test_files_that_contributors_are_sent_to_exist():
    text = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for name in re.findall(r"`((?:etui|tests|docs|policies)/[\w/.]+)`", text):
        if "NAME" not in name:
            assert (CHECKOUT / name).exists(), name
