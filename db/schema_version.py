"""Which migration the database is at, and how it gets to the newest one (Alembic, run in a thread).

Alembic is imported when there is something to migrate: it takes a third of a second and 8 MB, and most starts find
the schema at head. So the newest migration is told by the names of the files, `<number>_<what it does>.py`.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import psycopg
import structlog
from psycopg.errors import UndefinedTable
from sqlalchemy.exc import DBAPIError

from db.pool import DatabaseUnavailable, connection, is_unavailable, one_line
from schema.errors import ConfigurationError

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).parent.parent / "migrations"
CONFIGURATION = MIGRATIONS.parent / "alembic.ini"

log = structlog.get_logger(__name__)


@cache
def head() -> str:
    """The newest migration in the source."""
    return max(_known(), default="nothing")


async def behind() -> str | None:
    """What is missing from the schema, in a sentence that says what to do; None if nothing is.

    A migration that this source does not know was made by a newer one. In a rolling deploy that is how it should
    be: migrations keep what the version before them needs, so a database that is ahead is none of our troubles.

    Raises:
        DatabaseUnavailable: the database cannot be asked.
    """
    current = await _current()
    if current == head() or _is_ahead(current):
        return None
    remedy = "run `python app.py migrate`, or start with --migrate"
    return f"the database's schema is at {current or 'nothing'}, this program needs {head()}: {remedy}"


async def upgrade(url: str) -> None:
    """Migrates to head. Safe to run from many replicas at once: an advisory lock lets one of them do it.

    A database that is ahead of this source is left as it is.

    Raises:
        DatabaseUnavailable: the database is away, or went away; nothing was changed.
    """
    try:
        async with await psycopg.AsyncConnection.connect(url, connect_timeout=5) as conn:
            current = await _current_of(conn)
        if current == head():
            return
        if _is_ahead(current):
            log.warning("the database is ahead of this program: not migrated", database=current, program=head())
            return
        await anyio.to_thread.run_sync(_upgrade, url)
    except (psycopg.Error, DBAPIError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(cause, psycopg.Error) and is_unavailable(cause):
            raise DatabaseUnavailable(f"PostgreSQL: {one_line(cause)}") from error
        raise


async def add_revision(url: str, message: str) -> Path | None:
    """Writes a migration from what the database at `url` is to what the tables in `db` say.

    Returns its file; None if there is no difference. Files are numbered, so that they stand in their order.

    Raises:
        ConfigurationError: the database has to be migrated to head first.
    """
    from alembic import command  # noqa: PLC0415 - see above
    from alembic.script import Script  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    revise = partial(command.revision, _config(url), message, autogenerate=True, rev_id=f"{int(head()) + 1:04}")
    try:
        made = await anyio.to_thread.run_sync(revise)
    except CommandError as error:
        raise ConfigurationError(f"{error} (`python app.py migrate`)") from error
    return Path(made.path) if isinstance(made, Script) else None


def _upgrade(url: str) -> None:
    from alembic import command  # noqa: PLC0415 - see above

    command.upgrade(_config(url), "head")


async def _current() -> str | None:
    async with connection() as conn:
        return await _current_of(conn)


async def _current_of(conn: psycopg.AsyncConnection) -> str | None:
    try:
        row = await (await conn.execute("SELECT version_num FROM alembic_version")).fetchone()
    except UndefinedTable:
        return None
    return str(row[0]) if row else None


def _is_ahead(revision: str | None) -> bool:
    return revision is not None and revision not in _known()


@cache
def _known() -> frozenset[str]:
    return frozenset(path.stem.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def _config(url: str) -> Config:
    from alembic.config import Config  # noqa: PLC0415 - see above

    config = Config(str(CONFIGURATION)) if CONFIGURATION.exists() else Config()  # an image ships no alembic.ini
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["url"] = url
    return config
