"""Rolecall's command line and composition root: settings, resources, supervisor. Nothing imports it.

`python app.py --roles api,consume,schedule` runs the application; `python app.py --help` says what else there is.
Exit codes: 0 drained cleanly, 1 a failure that ended the process, 2 usage or configuration.
"""

from __future__ import annotations

import gc

gc.disable()  # what is imported stays: to look through it again and again took a third of the start

import sys
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import Annotated

import anyio
import typer
from rich.console import Console
from rich.table import Table

from commands.command import ConfigFile, exit_with, load
from commands.cron.verbs import cli as cron_verbs
from commands.keys import cli as key_verbs
from commands.parked.verbs import cli as parked_verbs
from commands.publish import cli as publish_verb
from commands.topology.verbs import cli as topology_verbs
from db.pool import create_pool, current_pool
from db.schema_version import add_revision, head, upgrade
from roles.clock import SystemClock
from roles.database.role import DatabaseRole
from roles.embedded.servers import Servers, running_database
from roles.events import DrainStarted, Event, RoleStarted
from roles.logs import choose_mode, configure, log_event
from roles.ops.console import places
from roles.ops.panel import PanelRole, announce, listener
from roles.ops.role import OpsRole
from roles.resources import Resources
from roles.role import Role, RoleSpec, Stage
from roles.signals import drain_on_signals, exit_after
from roles.streams import open_missing_streams
from roles.supervisor import Supervisor
from roles.watchdog import watchdog
from schema import topics
from schema.settings import EMBEDDED, Settings, current_settings

gc.freeze()  # nor is it looked through later
gc.enable()
cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
cli.add_typer(cron_verbs, name="cron")
cli.add_typer(parked_verbs, name="parked")
cli.add_typer(key_verbs, name="keys")
cli.add_typer(topology_verbs, name="topology")
cli.add_typer(publish_verb)


@cli.callback(invoke_without_command=True)
def run(
    context: typer.Context,
    roles: Annotated[
        str | None, typer.Option(metavar="NAMES", help="What to run: any of api,consume,schedule (default: all).")
    ] = None,
    console: Annotated[
        str | None, typer.Option(metavar="MODE", help="auto, rich (a panel on a terminal), plain, or json.")
    ] = None,
    config_file: ConfigFile = None,
    *,
    migrate_first: Annotated[
        bool, typer.Option("--migrate", help="Bring the database's schema to head before the roles start.")
    ] = False,
    reload: Annotated[
        bool, typer.Option("--reload", help="Restart on a change of the source; for development.")
    ] = False,
) -> None:
    """Run an HTTP API, AMQP consumers and cron jobs as supervised roles of one process.

    Settings come from the command line, the environment (APP_<SECTION>__<KEY>), .env, config.toml and defaults,
    in that order of strength. SIGTERM and Ctrl-C drain: what is in flight is finished, then the process exits
    with 0. A second one exits at once.
    """
    context.obj = config_file
    if context.invoked_subcommand is not None:
        return
    given = {"roles": roles, "console": console, "database.migrate": migrate_first or None}
    flags = {name: value for name, value in given.items() if value is not None}
    exit_with(_serve_reloading if reload else _serve, load(context, config_file, flags).settings)


@cli.command("config")
def show_config(context: typer.Context, config_file: ConfigFile = None) -> None:
    """Print the settings in force and where each came from. Passwords are masked."""
    rows = list(load(context, config_file).rows())
    if not sys.stdout.isatty():
        for name, value, origin in rows:
            typer.echo(f"{name} = {value}  # {origin}")
        return
    table = Table("setting", "value", "from", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


@cli.command()
def migrate(context: typer.Context, config_file: ConfigFile = None) -> None:
    """Bring the database's schema to head. Safe to run from many replicas at once."""
    exit_with(_migrate, load(context, config_file).settings)


@cli.command()
def revision(
    context: typer.Context,
    message: Annotated[str, typer.Argument(help="What the migration does: it becomes the name of its file.")],
    config_file: ConfigFile = None,
) -> None:
    """Write a migration from what the database is to what the tables in `db/` say. Read it before you run it."""
    exit_with(partial(_add_revision, message=message), load(context, config_file).settings)


@cli.command()
def openapi(context: typer.Context, config_file: ConfigFile = None) -> None:
    """Print the OpenAPI document of all routes, as JSON."""
    from roles.api.app import create_app
    from roles.api.docs import openapi_document

    typer.echo(openapi_document(create_app(load(context, config_file).settings)).decode())


@cli.command()
def asyncapi(context: typer.Context, config_file: ConfigFile = None) -> None:
    """Print the AsyncAPI 3 document of all consumers and topics."""
    from commands.asyncapi import document
    from commands.command import print_json
    from roles.consume.handlers import CONSUMERS
    from schema.topics import TOPICS

    print_json(document(CONSUMERS, TOPICS, load(context, config_file).settings))


@cli.command()
def check(context: typer.Context, config_file: ConfigFile = None) -> None:
    """Verify declarations, database and brokers: a line per finding, and exit code 2 if one of them is bad."""
    from checks import check_all

    exit_with(check_all, load(context, config_file).settings)


async def _serve(settings: Settings) -> int:
    """Runs the roles until a signal, or until one of them can never work."""
    from clients import open_clients
    from clients.cache import open_cache

    console = configure(choose_mode(settings.console, sys.stdout), settings.log.level)
    topics.validate(topics.TOPICS, settings)
    servers = Servers(settings)
    pool = create_pool(servers.database_url, settings.database)
    current_pool.set(pool)
    current_settings.set(settings)
    resources = Resources(settings=settings, pool=pool, amqp_urls=servers.amqp_urls)
    listen = listener(console)
    limit = settings.supervisor.drain_delay + settings.supervisor.drain_timeout
    starting: set[str] = set()

    def emit(event: Event) -> None:
        Context().run(listen, event)  # whatever is bound to the logs here is not about the event
        if isinstance(event, DrainStarted):
            exit_after(limit)
        if isinstance(event, RoleStarted) and event.role in starting:
            starting.remove(event.role)
            if not starting:
                gc.freeze()  # what is loaded by now stays; each full collection would look through it again
                here = places(
                    resources.board.addresses,
                    docs=settings.debug or settings.api.docs,
                    tls=bool(settings.api.tls_certificate),
                    **servers.places(),
                )
                Context().run(announce, console, here)

    supervisor = Supervisor(policy=settings.supervisor, clock=resources.clock, emit=emit)
    specs = _specs(resources, servers, supervisor, console)
    starting.update(spec.name for spec in specs)
    stop = anyio.Event()
    drain_on_signals(stop, limit)
    with watchdog(emit, settings.supervisor.blocked_loop):
        async with open_cache(settings.cache), open_clients(settings.clients):
            await supervisor.run(specs, stop=stop)
    return 0


def _specs(resources: Resources, servers: Servers, supervisor: Supervisor, console: Console | None) -> list[RoleSpec]:
    """What runs in this process: the roles that were asked for, and what they stand on."""
    settings = resources.settings
    snapshot, draining = supervisor.snapshot, lambda: supervisor.draining
    migrate = settings.database.migrate or servers.postgres is not None
    database = partial(DatabaseRole, resources, url=servers.database_url, migrate=migrate)
    needs: tuple[str, ...] = ("postgres",) if servers.postgres else ()
    specs = [
        RoleSpec(
            name="ops", build=partial(OpsRole, resources, snapshot=snapshot, draining=draining), stage=Stage.PLATFORM
        ),
        *servers.specs(),
        RoleSpec(name="database", build=database, needs=needs, stage=Stage.RESOURCES),
    ]
    if console is not None and console.is_interactive:
        panel = partial(PanelRole, resources, console=console, snapshot=snapshot, draining=draining)
        specs.append(RoleSpec(name="console", build=panel, stage=Stage.PLATFORM))
    for name in settings.roles:
        build, needs = _work(name, servers)
        specs.append(
            RoleSpec(name=name, build=partial(build, resources), needs=needs, tally=resources.board.tally(name))
        )
    if settings.amqp:  # whatever this process does can put messages into the outbox
        from roles.relay.role import RelayRole

        specs.append(
            RoleSpec(
                name="relay",
                build=partial(RelayRole, resources),
                needs=("database", "rabbitmq") if servers.rabbitmq else ("database",),
                stage=Stage.RELAY,
                tally=resources.board.tally("relay"),
            )
        )
    return specs


def _work(name: str, servers: Servers) -> tuple[Callable[[Resources], Role], tuple[str, ...]]:
    """A role by its name, and what it needs. It is imported here, so that a container loads only what it runs."""
    match name:
        case "api":
            from roles.api.role import ApiRole

            return ApiRole, ()  # without its database it answers all the same, with 503
        case "consume":
            from roles.consume.role import ConsumeRole

            return ConsumeRole, ("database", "rabbitmq") if servers.rabbitmq else ("database",)
        case _:
            from roles.schedule.role import ScheduleRole

            return ScheduleRole, ("database",)


async def _serve_reloading(settings: Settings) -> int:
    """Keeps the embedded servers running, and the application beside them in a process that it restarts."""
    from roles.reload.role import ReloadRole

    configure(choose_mode(settings.console, sys.stdout), settings.log.level)
    servers = Servers(settings)
    command = [sys.executable, *(argument for argument in sys.argv if argument != "--reload"), "--migrate"]
    specs = [
        *servers.specs(),
        RoleSpec(
            name="reload",
            build=partial(ReloadRole, command, environment=servers.environment()),
            needs=tuple(spec.name for spec in servers.specs()),
        ),
    ]
    stop = anyio.Event()
    supervisor = Supervisor(policy=settings.supervisor, clock=SystemClock(), emit=log_event)
    drain_on_signals(stop, settings.supervisor.drain_delay + settings.supervisor.drain_timeout)
    await supervisor.run(specs, stop=stop)
    return 0


async def _migrate(settings: Settings) -> int:
    configure("plain", settings.log.level)
    async with running_database(settings) as url:
        await upgrade(url)
    typer.echo(f"the database's schema is at {head()}")
    return 0


async def _add_revision(settings: Settings, *, message: str) -> int:
    configure("plain", "warning")
    async with running_database(settings) as url:
        if settings.database.url.get_secret_value() == EMBEDDED:
            await upgrade(url)
        path = await add_revision(url, message)
    typer.echo("no migration: the database is what the tables say" if path is None else str(path))
    return 0


if __name__ == "__main__":
    open_missing_streams()
    cli()
