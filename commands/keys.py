"""`python app.py keys …`: API keys, for `auth.mode = "api_key"`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated

import typer

from commands.command import ConfigFile, Json, Yes, confirm, database, exit_with, failure, load, print_json, show
from db import api_keys
from db.api_keys import ApiKey
from db.pool import connection
from schema.duration import LONGEST, format_duration, parse_duration
from schema.meant import meant
from schema.settings import Settings

cli = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")

COLUMNS = ("id", "name", "scopes", "created_at", "expires_at", "last_used_at", "revoked_at")


@cli.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Whom it is for.")],
    scope: Annotated[list[str], typer.Option(help="What it may do, such as students:read. May be repeated.")],
    expires: Annotated[
        str | None, typer.Option(metavar="DURATION", help="When it ends, such as 90d; else never.")
    ] = None,
    config_file: ConfigFile = None,
    *,
    as_json: Json = False,
) -> None:
    """Make a key and print it. Nobody can find it out afterwards: its digest is stored."""
    if not name.strip():
        raise failure(f"NAME: {name!r} does not say whom the key is for", 2)
    main = partial(_create, name=name, scopes=scope, expires_at=_end(expires), as_json=as_json)
    exit_with(main, load(context, config_file).settings)


@cli.command("list")
def list_keys(context: typer.Context, config_file: ConfigFile = None, *, as_json: Json = False) -> None:
    """List all keys, revoked and expired ones too."""
    exit_with(partial(_list, as_json=as_json), load(context, config_file).settings)


@cli.command()
def revoke(
    context: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As the list has it: what follows rk_ in the key.")],
    config_file: ConfigFile = None,
    *,
    yes: Yes = False,
) -> None:
    """End a key. Every process refuses it after `auth.cache` at the latest."""
    exit_with(partial(_revoke, key_id=key_id, yes=yes), load(context, config_file).settings)


async def _create(
    settings: Settings, *, name: str, scopes: Sequence[str], expires_at: datetime | None, as_json: bool
) -> int:
    _check(settings, scopes)
    async with database(settings), connection() as conn:
        made, key = await api_keys.create(conn, name, scopes=scopes, expires_at=expires_at)
    if as_json:
        print_json({"key": key, **_row(made)})
    else:
        typer.echo(key)
        typer.echo("This is the only time that it is shown. Send it as: Authorization: Bearer …", err=True)
    return 0


async def _list(settings: Settings, *, as_json: bool) -> int:
    async with database(settings), connection() as conn:
        keys = await api_keys.all_keys(conn)
    rows = [_row(key) if as_json else {**_row(key), "scopes": " ".join(key.scopes)} for key in keys]
    show(rows, columns=COLUMNS, as_json=as_json, empty="There are no keys: python app.py keys create …")
    return 0


async def _revoke(settings: Settings, *, key_id: str, yes: bool) -> int:
    async with database(settings), connection() as conn:
        found = await api_keys.get(conn, key_id)
        if found is None:
            raise failure(f"there is no key {key_id!r} (see python app.py keys list)", 1)
        confirm(f"Revoke {found.id} ({found.name})?", yes=yes)
        await api_keys.revoke(conn, key_id)
    typer.echo(f"revoked {key_id}; refused everywhere within {format_duration(settings.auth.cache)}")
    return 0


def _end(expires: str | None) -> datetime | None:
    """When a key ends that is made now."""
    if expires is None:
        return None
    try:
        lifetime = parse_duration(expires)
        if not timedelta(0) < lifetime <= LONGEST:
            raise ValueError(f"{expires!r} is not between 0s and {format_duration(LONGEST)}: leave it out for no end")
        return datetime.now(UTC) + lifetime
    except ValueError as error:
        raise failure(f"--expires: {error}", 2) from None


def _check(settings: Settings, scopes: Sequence[str]) -> None:
    """Refuses scopes that no route asks for: they are misspelt."""
    from roles.api.access import known_scopes  # noqa: PLC0415 - Quart takes its time, and no other verb needs it
    from roles.api.app import create_app  # noqa: PLC0415

    known = sorted(known_scopes(create_app(settings)))
    for scope in scopes:
        if scope not in known:
            raise failure(f"no route asks for the scope {scope!r}: {meant(scope, known)}", 2)


def _row(key: ApiKey) -> dict[str, object]:
    return key.model_dump(exclude={"digest"})
