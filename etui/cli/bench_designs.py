"""``etui bench designs``: list the designs of studies, and print one to copy it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from etui.cli.output import json_option, load_context, print_json, print_result
from etui.cli.param_types import TEXT
from etui.config.config import load_config
from etui.errors import InvalidFile
from etui.models.catalogue import Catalogue
from etui.yaml.named_files import NamedFile


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def designs(ctx: click.Context, as_json: bool) -> None:
    """List the designs of studies: their questions, their arms, and the models they need.

    \b
    etui bench designs
    etui bench designs show seed > mine.yaml
    etui bench --design mine.yaml --dry-run
    """  # noqa: D301
    if ctx.invoked_subcommand is not None:
        return
    from etui.design.load import designs_dir, list_designs

    config, catalogue, is_available = load_context()
    found = [_describe(place, catalogue, is_available) for place in list_designs(config)]
    print_result({"designs": found}, (line for each in found for line in _format(each)), as_json)
    if not as_json:
        click.echo(f"your own designs: {designs_dir(config)}/NAME.yaml", err=True)


@designs.command("show")
@click.argument("name", type=TEXT, metavar="NAME|FILE")
def show(name: str) -> None:
    """Print the YAML text of a design."""
    from etui.design.load import find_design
    from etui.yaml.load import read_text

    click.echo(read_text(find_design(name, load_config()).path), nl=False)


@designs.command("schema")
def schema() -> None:
    """Print the JSON Schema of designs, for editors."""
    from etui.design.load import json_schema

    print_json(json_schema())


def _describe(place: NamedFile, catalogue: Catalogue, is_available: Any) -> dict[str, Any]:
    """Describe a design; one that is not valid has only its errors."""
    from etui.design.load import check_design, list_arm_names
    from etui.yaml.load import read_text

    head = {"name": place.name, "origin": place.origin, "path": str(place.path)}
    try:
        located = check_design(read_text(place.path), str(place.path), catalogue.models)
    except InvalidFile as error:
        return {**head, "errors": error.what.splitlines()}
    file = located.model
    models = {
        role: {
            "serves": next((name for name in names if is_available(name)), None),
            "missing": [name for name in names if not is_available(name)],
        }
        for role, names in file.models.items()
    }
    return {
        **head,
        "title": file.title,
        "summary": file.summary.strip(),
        "questions": file.questions.model_dump(mode="json"),
        "arms": list_arm_names(file),
        "models": models,
        "curves": file.curves is not None,
    }


def _format(design: dict[str, Any]) -> Iterator[str]:
    own = "" if design["origin"] == "shipped" else " (yours)"
    yield f"{design['name']}{own}: {design.get('title', 'not valid')}"
    if "errors" in design:
        yield from (f"  {error}" for error in design["errors"])
        return
    questions = design["questions"]
    curves = ", with operating curves" if design["curves"] else ""
    yield (
        f"  {len(design['arms'])} arms on {questions['suite']} ({questions['split']}), format "
        f"{questions['format']}{curves}"
    )
    for role, names in design["models"].items():
        missing = ", ".join(names["missing"])
        if names["serves"] is not None:
            yield f"  {role}: {names['serves']}" + (f" (not here: {missing})" if missing else "")
        else:
            first = names["missing"][-1]
            yield f"  {role}: none of {missing} is here; etui models pull {first}"
