"""Rolecall's command line and composition root: settings, resources, supervisor. Nothing imports it.

`python app.py --roles api,consume,schedule` runs the application; `python app.py --help` says what else there is.
Exit codes: 0 drained cleanly, 1 a failure that ended the process, 2 usage or configuration.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer

from schema.errors import ConfigurationError, DependencyUnavailable
from schema.settings import EMBEDDED, Settings
from schema.settings_sources import LoadedSettings, load_settings

if TYPE_CHECKING:
    from roles.role import RoleSpec
    from roles.supervisor import Supervisor

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Read settings from this file, not ./config.toml.")
]


@cli.callback(invoke_without_command=True)
def run(
    context: typer.Context,
    roles: Annotated[
        str | None, typer.Option(metavar="NAMES", help="What to run: any of api,consume,schedule (default: all).")
    ] = None,
    console: Annotated[
        str | None, typer.Option(metavar="MODE", help="auto, rich (a panel on a terminal), plain, or json.")
    ] = None,
    config: ConfigFile = None,
    migrate: Annotated[bool, typer.Option("--migrate", help="Bring the database's schema to head first.")] = False,
    reload: Annotated[bool, typer.Option("--reload", help="Restart when the source changes; for development.")] = False,
) -> None:
    """Run an HTTP API, AMQP consumers and cron jobs as supervised roles of one process.

    Settings come from the command line, the environment (APP_<SECTION>__<KEY>), .env, config.toml and defaults,
    in that order of strength. SIGTERM and Ctrl-C drain: what is in flight is finished, then the process exits
    with 0. A second one exits at once.
    """
    context.obj = config
    if context.invoked_subcommand is not None:
        return
    flags = {"roles": roles, "console": console, "database.migrate": migrate or None}
    settings = _load(config, **{name: value for name, value in flags.items() if value is not None}).settings
    if reload:
        from roles.reload.role import specs_reloading

        _run(_serve, settings, partial(specs_reloading, arguments=[each for each in sys.argv if each != "--reload"]))
    _run(_serve, settings, _specs)


@cli.command()
def config(context: typer.Context, config: ConfigFile = None) -> None:
    """Print the settings in force and where each came from. Passwords are masked."""
    from rich.console import Console
    from rich.table import Table

    table = Table("setting", "value", "from", box=None, pad_edge=False)
    rows = list(_load(config or context.obj).rows())
    if not sys.stdout.isatty():
        for name, value, origin in rows:
            typer.echo(f"{name} = {value}  # {origin}")
        return
    for row in rows:
        table.add_row(*row)
    Console().print(table)


@cli.command()
def migrate(context: typer.Context, config: ConfigFile = None) -> None:
    """Bring the database's schema to head. Safe to run from many replicas at once."""
    _run(_migrate, _load(config or context.obj).settings)


@cli.command()
def check(context: typer.Context, config: ConfigFile = None) -> None:
    """Verify declarations, database and brokers: a line per finding, exit code 2 if anything has to be changed."""
    _run(_check, _load(config or context.obj).settings)


def _load(config: Path | None, **flags: Any) -> LoadedSettings:
    try:
        return load_settings(flags=flags, config=config, environ=os.environ)
    except ConfigurationError as error:
        raise _failure(error, 2) from None


def _run(main: Callable[..., Coroutine[Any, Any, int]], *arguments: object) -> None:
    """Runs `main` to its end and exits with its code, or with the code of its error."""
    from roles.failures import DrainTimeout, RestartBudgetExhausted

    try:
        code = anyio.run(main, *arguments, backend_options={"use_uvloop": True})
    except ConfigurationError as error:
        raise _failure(error, 2) from None
    except (DependencyUnavailable, RestartBudgetExhausted, DrainTimeout) as error:
        raise _failure(error, 1) from None
    raise typer.Exit(code)


def _failure(error: Exception, code: int) -> typer.Exit:
    typer.echo(f"error: {error}", err=True)
    return typer.Exit(code)


if __name__ == "__main__":
    cli()
