"""``etui engine``: which llama.cpp answers, a build for this machine, and what it gains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from etui.cli.output import json_option, open_watch, print_result, stop_signals
from etui.cli.param_types import TEXT, WholeNumber, join_options, number_option, text_option
from etui.config.config import Config, load_config
from etui.errors import EngineFailed, ExitCode, UsageError
from etui.measure.progress import Progress
from etui.text import format_table, suggest
from etui.units import multiple_text, significant

if TYPE_CHECKING:
    from etui.engine.builds import Build
    from etui.models.spec import ModelSpec
    from etui.runtime.engine_build import EngineStatus, Report
    from etui.runtime.engine_comparison import EngineComparison

_RECIPES = {
    "native": "For the CPU, with all its instructions (default).",
    "cuda": "For NVIDIA cards.",
    "vulkan": "For any card, Intel's too.",
    "metal": "For Apple Silicon.",
    "hip": "For AMD cards (ROCm).",
}

_recipe_options = join_options(
    *(
        click.option(f"--{name}", "recipe", type=TEXT, flag_value=name, help=text)
        for name, text in _RECIPES.items()
    )
)
_UNITS = {"per_second": "tok/s", "per_token": "J/tok"}

_model_option = text_option(
    "--model", default="", metavar="NAME", help="Model to run (default: the smallest)."
)
_rounds_option = number_option(
    WholeNumber(2, 100), "--rounds", default=5, help="Runs of each build in the comparison (5)."
)


@click.group()
def engine() -> None:
    """Show which llama.cpp is used; build a faster one.

    etui loads the llama.cpp that was compiled at its install, or else ready-made libraries (extra
    `prebuilt`), or one that `etui engine build` made. The choice is kept in ETUI_HOME.
    """


@engine.command()
@json_option
def status(as_json: bool) -> int:
    """Show the builds here, which one is used, and whether a better one is possible.

    The exit code is 1 if none can be loaded.
    """
    from etui.runtime.engine_build import read_status

    found = read_status(load_config())
    builds = [asdict(build) | {"folder": str(build.folder)} for build in found.builds]
    document = {"used": found.used, "builds": builds, "hints": found.hints}
    print_result(document, format_status(found), as_json)
    return ExitCode.DONE if found.used else ExitCode.FAILED


def format_status(status: EngineStatus) -> Iterator[str]:
    """Format the builds as a table, and what could be better."""
    rows = [
        (
            "✓" if build.name == status.used else "✗" if build.refused else "-",
            build.name,
            build.commit[:9] or "?",
            build.refused or shorten_features(build.features),
        )
        for build in status.builds
    ]
    yield from format_table(rows, header=("", "build", "llama.cpp", "features, or why not"))
    for build in status.builds:
        if build.refused and build.fix:
            yield f"{build.name}: {build.fix}"
    yield from status.hints


def shorten_features(features: str) -> str:
    """Shorten llama.cpp's own words: ``CPU : AVX2 = 1 | FMA = 1`` becomes ``CPU AVX2 FMA``."""
    parts = [part.strip() for part in features.replace(" : ", " | ").split("|")]
    kept = [part.removesuffix(" = 1") for part in parts if not part.endswith("= 0")]
    return " ".join(kept) or "not known"


@engine.command()
@_recipe_options
@_model_option
@_rounds_option
@json_option
def build(recipe: str | None, model: str, rounds: int, as_json: bool) -> None:
    """Compile llama.cpp for this machine, and show what it gained.

    This takes 2 to 20 minutes and a C++ compiler. The new build and the present one then run in
    turn on the same model; their tokens/s and joules per token are shown with the ratio and its
    interval at 95 %. The new one is kept, and used from then on, if all runs answered; if anything
    fails before, the present one stays, even one of the same name. `etui engine revert` goes back
    to the llama.cpp of the install.
    """
    from etui.engine.builds import Builds
    from etui.runtime.engine_build import RECIPES
    from etui.runtime.engine_build import build as compile_engine

    config = load_config()
    spec = _choose_model(model, config)
    builds = Builds(config.engines_dir)
    try:
        present = builds.choose()
    except EngineFailed:
        present = None  # nothing to compare with: any that answers is a gain
    with stop_signals(), _report() as report:
        with compile_engine(RECIPES[recipe or "native"], config, report) as made:
            if present is not None and present.name == made.name:
                present = replace(present, name=f"{made.name} (before)")
            found = _compare(present or made, made, spec, config, rounds, report)
        builds.choose_for_now_on(made.name)
    print_result(found, format_comparison(found), as_json)


@engine.command()
@click.argument("old", type=TEXT)
@click.argument("new", type=TEXT)
@_model_option
@_rounds_option
@json_option
def compare(old: str, new: str, model: str, rounds: int, as_json: bool) -> None:
    """Run two builds in turn on the same model, and show what NEW gains over OLD."""
    config = load_config()
    first, second = (_find_build(name, config) for name in (old, new))
    with stop_signals(), _report() as report:
        found = _compare(first, second, _choose_model(model, config), config, rounds, report)
    print_result(found, format_comparison(found), as_json)


@engine.command()
@click.argument("name", type=TEXT)
def use(name: str) -> None:
    """Use the build NAME from now on."""
    from etui.engine.builds import Builds

    config = load_config()
    Builds(config.engines_dir).choose_for_now_on(_find_build(name, config).name)
    click.echo(f"{name} is used from now on")


@engine.command()
def revert() -> None:
    """Use the llama.cpp of the install again."""
    from etui.engine.builds import Builds

    builds = Builds(load_config().engines_dir)
    builds.choose_for_now_on("")
    click.echo(f"{builds.choose().name} is used from now on")


def _choose_model(name: str, config: Config) -> ModelSpec:
    from etui.models.catalogue import load_catalogue
    from etui.models.files import require
    from etui.runtime.try_gpu import choose_model

    spec = choose_model(name, config, load_catalogue(config))
    require(spec, config)
    return spec


def _find_build(name: str, config: Config) -> Build:
    """Find a build that can be loaded."""
    from etui.engine.builds import Builds

    builds = Builds(config.engines_dir)
    found = {build.name: build for build in builds.list()}
    if name not in found:
        hint = suggest(name, found) or f"there are: {', '.join(found) or 'none'}"
        raise UsageError(f"no build is named {name!r}; {hint}", "etui engine status")
    build = found[name] if found[name].refused else builds.probe(found[name])
    if build.refused:
        raise EngineFailed(f"{name} cannot be used: {build.refused}", build.fix)
    return build


def _compare(
    old: Build, new: Build, spec: ModelSpec, config: Config, rounds: int, report: Report
) -> EngineComparison:
    from etui.energy.discovery import open_recorder
    from etui.runtime.engine_comparison import compare_builds

    with open_recorder(config) as meter:
        return compare_builds(old, new, spec, meter, report, rounds)


@contextmanager
def _report() -> Iterator[Report]:
    with open_watch() as watch:
        yield lambda text, share: watch(Progress(text, share, None if share is None else 1.0))


def format_comparison(found: EngineComparison) -> Iterator[str]:
    """Format a comparison as a table with a line below it."""
    kind = f" ({found.kind})" if found.kind else ""
    rows = []
    for gain in found.gains:
        phase, _, unit = gain.figure.partition("_")
        text = _UNITS["per_token" if unit.endswith("per_token") else "per_second"]
        mark = "≈" if found.kind == "estimate" and text == "J/tok" else ""
        ratio = multiple_text(gain.ratio, gain.low, gain.high)
        verdict = "" if gain.certain else "no difference shown"
        values = [f"{mark}{significant(value, 3)} {text}" for value in (gain.old, gain.new)]
        rows.append((phase, *values, ratio, verdict))
    yield from format_table(rows, header=("", found.old, found.new, "ratio", ""))
    yield f"{found.model}, {found.rounds} runs of each in turn, intervals at 95 %; joules{kind}"
