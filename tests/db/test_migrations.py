"""Migrations and tables agree, and replicas that migrate at once do not race."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import anyio
import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

import db
from db.metadata import metadata
from db.pool import DatabaseUnavailable, Pool, connection
from db.schema_version import MIGRATIONS, behind, head, upgrade
from tests.services import PostgresServer

for module in pkgutil.iter_modules(db.__path__):
    importlib.import_module(f"db.{module.name}")


def test_the_migrations_make_what_the_tables_say(database_url: str) -> None:
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(database_url))
    with engine.connect() as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_the_names_of_the_files_tell_the_chain() -> None:
    chain = list(ScriptDirectory(str(MIGRATIONS)).walk_revisions())
    assert chain[0].revision == head()
    assert [Path(script.path).stem.partition("_")[0] for script in chain] == [script.revision for script in chain]
    assert sorted((script.revision for script in chain), reverse=True) == [script.revision for script in chain]


def test_a_program_that_has_nothing_to_migrate_does_not_load_alembic() -> None:
    script = "import sys, app, db.schema_version as v; v.head(); sys.exit('alembic' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=MIGRATIONS.parent, check=True)


@pytest.mark.anyio
async def test_a_database_at_head_is_not_behind(pool: Pool) -> None:
    assert await behind() is None


@pytest.mark.anyio
async def test_an_older_database_is_behind_and_says_what_to_do(pool: Pool) -> None:
    async with connection() as conn:
        await conn.execute("UPDATE alembic_version SET version_num = '0001'")
        problem = await behind()
        assert problem == (
            f"the database's schema is at 0001, this program needs {head()}: "
            "run `python app.py migrate`, or start with --migrate"
        )
        await conn.execute("DROP TABLE alembic_version")
        problem = await behind()
        assert problem is not None
        assert "is at nothing" in problem


@pytest.mark.anyio
async def test_a_database_that_a_newer_program_has_migrated_is_not_behind(pool: Pool, database_url: str) -> None:
    async with connection() as conn:
        await conn.execute("UPDATE alembic_version SET version_num = '9999'")
        assert await behind() is None
        await upgrade(database_url)
        row = await (await conn.execute("SELECT version_num FROM alembic_version")).fetchone()
    assert row == ("9999",)


@pytest.mark.anyio
async def test_replicas_that_migrate_together_do_not_race(postgres: PostgresServer) -> None:
    with postgres.database() as url, psycopg.connect(url, autocommit=True) as admin:
        admin.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        script = "import sys, anyio, db.schema_version as v; anyio.run(v.upgrade, sys.argv[1])"
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(anyio.run_process, [sys.executable, "-c", script, url])
        assert admin.execute("SELECT version_num FROM alembic_version").fetchall() == [(head(),)]
    await upgrade(postgres.server.url)


@pytest.mark.anyio
async def test_a_database_that_is_away_is_unavailable_to_migrations_too(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="PostgreSQL: "):
        await upgrade(f"postgresql:///nowhere?host={tmp_path}")
