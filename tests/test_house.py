"""The rules of the packages, checked on the source: libraries, faces, cycles, what is loaded."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES_OF = {
    "aiohttp": {"tui"},
    "click": {"cli"},
    "httpx2": {"backends", "energy"},
    "huggingface_hub": {"models"},
    "llama_cpp": {"engine"},
    "llguidance": {"engine"},
    "matplotlib": {"design", "plots"},
    "mcp": {"server", "tools"},
    "mpmath": {"stats"},
    "pyarrow": {"datasets"},
    "pydantic": {"config", "design", "learning", "models", "prompts", "routing", "server", "yaml"},
    "pynvml": {"energy"},
    "ray": {"cluster"},
    "rich": {"cli", "tui"},
    "scipy": {"learning"},
    "sklearn": {"learning"},
    "sqlite_utils": {"log"},
    "starlette": {"server"},
    "textual": {"tui"},
    "uvicorn": {"server"},
    "yaml": {"yaml"},
}
"""A heavy library -> the packages that may import it, at the top of a module or in a function."""
ENGINE_AND_SCREEN = {"llama_cpp", "pynvml", "textual"}
SLOW = {
    *ENGINE_AND_SCREEN,
    "huggingface_hub",
    "jinja2",
    "llguidance",
    "msgspec",
    "numpy",
    "pydantic",
    "yaml",
}


class Import(NamedTuple):
    """One import of a module; ``typing`` below TYPE_CHECKING, ``late`` in a function."""

    target: str
    typing: bool
    late: bool


def modules(folder: str) -> dict[str, Path]:
    """Every module below a folder of the repository, with its file."""
    paths = sorted((ROOT / folder).rglob("*.py"))
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }


ETUI = modules("etui")


@cache
def imports(path: Path) -> tuple[Import, ...]:
    """What a module imports; a name of a package that is a module counts as that module."""
    return tuple(_imports(ast.parse(path.read_text(encoding="utf-8")), typing=False, late=False))


def _imports(tree: ast.AST, typing: bool, late: bool) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, typing, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for name in [f"{node.module}.{alias.name}" for alias in node.names]:
                yield Import(name if name in ETUI else str(node.module), typing, late)
        else:
            checks = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from _imports(node, typing or checks, late or inside)


def package(module: str) -> str:
    """The package of etui, or the module beside the packages, that a module is in."""
    return module.split(".")[1] if "." in module else ""


def private_owner(module: str) -> str | None:
    """The package that alone may import a module, if a part of its name has an underscore."""
    parts = module.split(".")
    hidden = [n for n, part in enumerate(parts) if part.startswith("_") and part[1:2] != "_"]
    return ".".join(parts[: hidden[0]]) if hidden else None


def loaded_by(module: str) -> set[str]:
    """The libraries that are loaded when a module is imported, by the source of etui."""
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        waiting += [name.rpartition(".")[0]] if "." in name else []
        for target, typing, late in imports(ETUI[name]):
            if typing or late:
                continue
            if target in ETUI:
                waiting.append(target)
            else:
                found.add(target.split(".")[0])
    return found


def test_a_heavy_library_has_its_packages():
    found = {
        f"{name} imports {top}"
        for name, path in ETUI.items()
        for top in {each.target.split(".")[0] for each in imports(path)} & PACKAGES_OF.keys()
        if package(name) not in PACKAGES_OF[top]
    }
    assert not found


def test_a_private_module_is_imported_by_its_own_package_and_by_tests_of_it():
    found = set()
    for name, path in {**ETUI, **modules("tests"), **modules("benchmarks")}.items():
        for target in {each.target for each in imports(path)}:
            owner = private_owner(target) if target in ETUI else None
            if owner is not None:
                tests = ".".join(["tests", *owner.split(".")[1:2]])
                if not f"{name}.".startswith((f"{owner}.", f"{tests}.")):
                    found.add(f"{name} imports {target}")
    assert not found


def test_no_module_imports_itself_through_others():
    graph = {
        name: {each.target for each in imports(path) if not each.typing and each.target in ETUI}
        for name, path in ETUI.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_only_the_app_loads_a_screen_and_only_a_backend_loads_the_engine():
    assert not {name for name in ETUI if package(name) != "tui" and "textual" in loaded_by(name)}
    assert not {name for name in ETUI if ENGINE_AND_SCREEN & loaded_by(name) - {"textual"}}


def test_no_command_loads_anything_slow_before_it_runs():
    commands = [name for name in ETUI if name.startswith("etui.cli.")]
    assert not {name: found for name in commands if (found := loaded_by(name) & SLOW)}
