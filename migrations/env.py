"""Alembic's entry: `python app.py migrate` and `python app.py revision` come here, and the `alembic` command.

The URL is the application's own setting. All pending migrations run in one transaction, behind an advisory
lock: of many replicas that start together one migrates, and the others find nothing left to do.
"""

from __future__ import annotations

import importlib
import os
import pkgutil

import psycopg
from alembic import context
from alembic.operations.ops import MigrationScript
from alembic.util import CommandError
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

import db
from db.metadata import metadata
from schema.settings import EMBEDDED
from schema.settings_sources import load_settings

LOCK = 0x526F6C65  # "Role"; any constant that nothing else in the database uses
CONNECT_TIMEOUT = 5

for module in pkgutil.iter_modules(db.__path__):  # every table has to join the metadata
    importlib.import_module(f"db.{module.name}")


def url() -> str:
    given = context.config.attributes.get("url")
    found: str = given or load_settings(environ=os.environ).settings.database.url.get_secret_value()
    if found == EMBEDDED:
        raise CommandError('database.url is "embedded": `python app.py migrate` and `revision` know where that is')
    return found


def leave_out_empty(_context: object, _revision: object, directives: list[MigrationScript]) -> None:
    """No difference, no file: for `app.py revision`. Alembic's own commands count on there being one."""
    if "url" not in context.config.attributes:
        return
    for directive in directives:
        if directive.upgrade_ops is not None and directive.upgrade_ops.is_empty():
            directives.remove(directive)


engine = create_engine(
    "postgresql+psycopg://",
    creator=lambda: psycopg.connect(url(), connect_timeout=CONNECT_TIMEOUT, application_name="rolecall migrate"),
    poolclass=NullPool,
)
with engine.connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        compare_type=True,
        compare_server_default=True,
        process_revision_directives=leave_out_empty,
    )
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        context.run_migrations()
