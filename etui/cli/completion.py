"""``etui completion``: print the script with which a shell completes commands and options."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that completes etui's commands and options.

    \b
    bash: add to ~/.bashrc:   eval "$(etui completion bash)"
    zsh:  add to ~/.zshrc:    eval "$(etui completion zsh)"
    fish: run once:           etui completion fish > ~/.config/fish/completions/etui.fish

    In zsh the line belongs after `compinit`. bash must be version 4.4 or newer. Start a new shell
    afterwards.
    """  # noqa: D301
    from click.shell_completion import get_completion_class

    root = ctx.find_root()
    kind = get_completion_class(shell)
    assert kind is not None  # click ships these three
    # The variable is the one that click reads when the program's name is `etui`.
    click.echo(kind(root.command, {}, "etui", "_ETUI_COMPLETE").source(), nl=False)
