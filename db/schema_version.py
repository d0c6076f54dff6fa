"""Which migration the database is at, and how it gets to the newest one (Alembic, run in a thread)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import anyio
import anyio.to_thread
import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg.errors import UndefinedTable
from sqlalchemy.exc import DBAPIError

from db.pool import DatabaseUnavailable, connection, is_unavailable

MIGRATIONS = Path(__file__).parent.parent / "migrations"


@cache
def head() -> str | None:
    """The newest migration in the source."""
    return ScriptDirectory(str(MIGRATIONS)).get_current_head()


async def behind() -> str | None:
    """What is wrong with the schema, in a sentence that says what to do; None if it is at head.

    Raises:
        DatabaseUnavailable: the database cannot be asked.
    """
    async with connection() as conn:
        try:
            row = await (await conn.execute("SELECT version_num FROM alembic_version")).fetchone()
        except UndefinedTable:
            row = None
    current = row[0] if row else None
    if current == head():
        return None
    remedy = "run `python app.py migrate`, or start with --migrate"
    return f"the database's schema is at {current or 'nothing'}, this program needs {head()}: {remedy}"


async def upgrade(url: str) -> None:
    """Migrates to head. Safe to run from many replicas at once: an advisory lock lets one of them do it.

    Raises:
        DatabaseUnavailable: the database is away, or went away; nothing was changed.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["url"] = url
    try:
        await anyio.to_thread.run_sync(command.upgrade, config, "head")
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.Error) and is_unavailable(error.orig):
            raise DatabaseUnavailable(f"PostgreSQL: {error.orig}") from error
        raise
