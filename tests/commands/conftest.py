from __future__ import annotations

import pytest
from pydantic import SecretStr

from schema.settings import Database, Settings
from tests.commands.support import Output


@pytest.fixture
def settings(database_url: str) -> Settings:
    return Settings(database=Database(url=SecretStr(database_url), pool_min_size=1))


@pytest.fixture
def out(capsys: pytest.CaptureFixture[str]) -> Output:
    def read() -> str:
        return "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())

    return read
