"""What all verbs share: settings, exit codes, the database, and rows for people or for programs.

```
@cli.command("list")
def list_things(context: typer.Context, config_file: ConfigFile = None, *, as_json: Json = False) -> None:
    exit_with(partial(_list, as_json=as_json), load(context, config_file).settings)

async def _list(settings: Settings, *, as_json: bool) -> int:
    async with database(settings), connection() as conn:
        show(await things.all(conn), as_json=as_json)
    return 0
```
Exit codes: 0 done, 1 a failure, 2 usage or configuration.
"""

from __future__ import annotations

import getpass
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer
from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.table import Table
from rich.text import Text

from db.pool import create_pool, current_pool
from db.schema_version import behind, upgrade
from roles.embedded.servers import running_database
from roles.events import Failure
from roles.failures import SupervisionError, classify, describe
from roles.logs import configure
from schema.errors import ConfigurationError
from schema.settings import EMBEDDED, Settings, current_settings
from schema.settings_sources import LoadedSettings, load_settings
from schema.text import is_storable

ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Read settings from this file, not ./config.toml.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]

MOST = 2**31 - 1
"""The largest number that a `--limit` may be: PostgreSQL is asked with it."""

Row = Mapping[str, Any]


def load(
    context: typer.Context, config_file: Path | None = None, flags: Mapping[str, Any] | None = None
) -> LoadedSettings:
    """The settings in force, for a verb whose arguments are text; `--config` may stand before or after the verb.

    Raises:
        typer.Exit: they are wrong, or an argument is no text; what is wrong was printed.
    """
    _refuse_bytes(context)
    try:
        return load_settings(flags=flags, config=config_file or context.obj, environ=os.environ)
    except ConfigurationError as error:
        raise failure(str(error), 2) from None


def exit_with(main: Callable[[Settings], Coroutine[Any, Any, int]], settings: Settings) -> None:
    """Runs `main` to its end and exits with its code, or with the code of its error.

    A coroutine may `raise failure(…)` anywhere, also inside a task group.
    """
    try:
        code = anyio.run(main, settings, backend_options={"use_uvloop": True})
    except Exception as error:
        if ended := _exit_in(error):
            raise ended from None
        kind = classify(error)
        if kind is Failure.BUG and not isinstance(error, SupervisionError):
            raise
        raise failure(describe(error), 2 if kind is Failure.CONFIGURATION else 1) from None
    raise typer.Exit(code)


def _refuse_bytes(context: typer.Context) -> None:
    """Of an argument that is no UTF-8 Python makes a text that can be neither stored nor printed."""
    for parameter in context.command.params:
        if parameter.metavar == "FILE":  # the name of a file is whatever the system says
            continue
        given = context.params.get(parameter.name or "")
        for value in given if isinstance(given, list | tuple) else (given,):
            if isinstance(value, str) and not is_storable(value):
                option = parameter.param_type_name == "option"
                name = max(parameter.opts, key=len) if option else parameter.metavar or str(parameter.name).upper()
                raise failure(f"{name}: {os.fsencode(value)!r} is no UTF-8", 2)


def _exit_in(error: Exception) -> typer.Exit | None:
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, typer.Exit) else None


def failure(message: str, code: int) -> typer.Exit:
    """Prints `error: <message>`; to be raised."""
    typer.echo(f"error: {message}", err=True)
    return typer.Exit(code)


@asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[None]:
    """Opens the pool for one command; `connection()` and `unit_of_work()` work inside. Warnings go to standard error.

    The embedded server is run for as long as the command lasts, unless the application has it running.

    Raises:
        ConfigurationError: the schema is not at head.
    """
    configure("plain", "warning", stream=sys.stderr)  # standard output is for what was asked for
    async with running_database(settings) as url:
        if settings.database.url.get_secret_value() == EMBEDDED:
            await upgrade(url)
        async with create_pool(url, settings.database) as pool:
            token = current_pool.set(pool)
            current_settings.set(settings)
            try:
                if problem := await behind():
                    raise ConfigurationError(problem)
                yield
            finally:
                current_pool.reset(token)


def show(rows: Sequence[Row], *, columns: Sequence[str], as_json: bool, empty: str) -> None:
    """Prints rows: as a JSON array with all their keys, or as a table of `columns`; a list in a cell is its lines.

    Params:
        empty: what to say to a person when there are none.
    """
    if as_json:
        print_json(rows)
    elif not rows:
        typer.echo(empty)
    else:
        table = Table(*columns, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*(Text(_cell(row[column])) for column in columns))
        _print(table)


def show_fields(fields: Row) -> None:
    """Prints one thing for people: a line for each of its fields, but for those that are None."""
    table = Table.grid("name", "value", padding=(0, 2))
    for name, value in fields.items():
        if value is not None:
            table.add_row(Text(name), Text(_cell(value)))
    _print(table)


def show_text(text: str) -> None:
    """Prints lines for people, as they are but for what a terminal would act on."""
    for line in text.expandtabs(4).splitlines():
        typer.echo(_printable(line))


def print_json(value: object) -> None:
    """Prints JSON, with times as ISO 8601, and with escapes for what a terminal would act on.

    Numbers that JSON does not have, such as NaN, are null.
    """
    plain = json.loads(json.dumps(to_jsonable_python(value)), parse_constant=lambda _: None)
    text = json.dumps(plain, indent=2, ensure_ascii=False)
    typer.echo("".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text))


def confirm(question: str, *, yes: bool) -> None:
    """Asks a person.

    Raises:
        typer.Exit: with 1, the answer is no; with 2, there is nobody to ask and no `--yes`.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise failure(f"{question} There is no terminal to ask on: add --yes.", 2)
    with on_interrupt(signal.default_int_handler):
        agreed = typer.confirm(question)
    if not agreed:
        raise failure("nothing was done", 1)


@contextmanager
def on_interrupt(handler: Callable[..., Any]) -> Iterator[None]:
    """Has Ctrl-C call `handler` inside the block, and not cancel the command, which is seen at its next await."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def who() -> str:
    """Who is at the keyboard, for what is written down: `login@host`."""
    try:
        login = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        login = str(os.getuid())
    return f"{login}@{socket.gethostname()}".encode(errors="replace").decode()


def _print(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _cell(value: object) -> str:
    """One line, without anything that a terminal would act on; for a list, one for each of its values."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return "\n".join(map(_cell, value))
    text = value.isoformat(sep=" ", timespec="seconds") if isinstance(value, datetime) else str(value)
    return _printable(" ".join(text.split()))


def _printable(line: str) -> str:
    return "".join(character if character.isprintable() else "·" for character in line)
