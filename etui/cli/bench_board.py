"""``etui bench board``: a page that ranks public folders."""

from __future__ import annotations

from pathlib import Path

import click

from etui.cli.common import write_output


@click.command()
@click.argument(
    "folder", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="FOLDER"
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The page (default: board.html in FOLDER).",
)
@click.option("--open", "open_", is_flag=True, help="Open the page in the browser.")
def board(folder: Path, output: Path | None, open_: bool) -> None:
    """Write a page that ranks public folders by joules per right answer.

    It reads every folder below FOLDER that `etui bench publish` wrote, and checks its figures
    against its answers; one that is broken, or that a link takes from another place, is skipped
    and named. Runs of other data or formats are in other lists, and estimates are ranked apart.
    The page is one file and loads nothing.
    """
    from etui.bench.publish.board import render_board
    from etui.bench.publish.read import read_folders
    from etui.errors import UsageError
    from etui.text.tables import one_line

    runs, skipped = read_folders(folder)
    for one in skipped:
        click.echo(one_line(f"note: skipped {one.place}: {one.why}"), err=True)
    if not runs and not skipped:
        raise UsageError(
            f"there is no published run below {folder}",
            "write one with: etui bench publish RUN --to FOLDER/NAME",
        )
    page = output or folder / "board.html"
    text = render_board(runs, skipped, _find_links(page, folder))
    write_output(page, text, "choose another file with --output", errors="replace")
    click.echo(str(page))
    if open_:
        click.launch(str(page.resolve()))


def _find_links(page: Path, folder: Path) -> str | None:
    """Return the way from the page to the folder; None if it leads through other folders."""
    base, root = page.absolute().parent.resolve(), folder.resolve()
    return root.relative_to(base).as_posix() if root.is_relative_to(base) else None
