"""The command lines of `topology …`. What they do is imported on use, so that a container loads only what it runs."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from commands.command import ConfigFile, Json, Yes, exit_with, load

cli = typer.Typer(help="What is declared at the brokers, what they have, and how to get there.", no_args_is_help=True)


@cli.command("show")
def show_topology(context: typer.Context, config_file: ConfigFile = None, *, as_json: Json = False) -> None:
    """List queues, exchanges and bindings: what is declared, whether it is there, and what is in it."""
    from commands.topology.acts import show

    exit_with(partial(show, as_json=as_json), load(context, config_file).settings)


@cli.command("diff")
def diff_topology(context: typer.Context, config_file: ConfigFile = None, *, as_json: Json = False) -> None:
    """Say what differs between declarations and brokers, and what to do about it. Exit code 2 if anything does."""
    from commands.topology.acts import diff

    exit_with(partial(diff, as_json=as_json), load(context, config_file).settings)


@cli.command("apply")
def apply_topology(
    context: typer.Context,
    config_file: ConfigFile = None,
    *,
    recreate: Annotated[
        list[str] | None,
        typer.Option(metavar="QUEUE", help="Make this queue anew with the arguments declared; keeps its messages."),
    ] = None,
    as_json: Json = False,
    yes: Yes = False,
) -> None:
    """Declare what is missing. What is there is left as it is, but for the queues named with --recreate."""
    from commands.topology.acts import apply

    main = partial(apply, recreate=recreate or (), as_json=as_json, yes=yes)
    exit_with(main, load(context, config_file).settings)
