from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from schema.settings import Database, Settings
from tests.commands.support import Output
from tests.services import PostgresServer


@pytest.fixture
def settings(database_url: str) -> Settings:
    return Settings(database=Database(url=SecretStr(database_url), pool_min_size=1))


@pytest.fixture(scope="module")
def module_database_url(postgres: PostgresServer) -> Iterator[str]:
    with postgres.database() as url:
        yield url


@pytest.fixture
def configured(module_database_url: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of one database for all tests of a module, which the environment names for the command line."""
    monkeypatch.setenv("APP_DATABASE__URL", module_database_url)
    return module_database_url


@pytest.fixture
def out(capsys: pytest.CaptureFixture[str]) -> Output:
    def read() -> str:
        return "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())

    return read
