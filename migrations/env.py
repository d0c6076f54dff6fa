"""Alembic's entry: `python app.py migrate` and `python -m alembic revision --autogenerate -m …` come here.

The URL is the application's own setting. All pending migrations run in one transaction, behind an advisory
lock: of many replicas that start together one migrates, and the others find nothing left to do.
"""

from __future__ import annotations

import importlib
import os
import pkgutil

import psycopg
from alembic import context
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

import db
from db.metadata import metadata
from schema.settings_sources import load_settings

LOCK = 0x526F6C65  # "Role"; any constant that nothing else in the database uses
CONNECT_TIMEOUT = 5

for module in pkgutil.iter_modules(db.__path__):  # every table has to join the metadata
    importlib.import_module(f"db.{module.name}")


def url() -> str:
    given = context.config.attributes.get("url")
    return given or load_settings(environ=os.environ).settings.database.url.get_secret_value()


engine = create_engine(
    "postgresql+psycopg://",
    creator=lambda: psycopg.connect(url(), connect_timeout=CONNECT_TIMEOUT, application_name="rolecall migrate"),
    poolclass=NullPool,
)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=metadata, compare_type=True, compare_server_default=True)
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        context.run_migrations()
