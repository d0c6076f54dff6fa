from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.services import PostgresServer


@pytest.fixture(scope="module")
def shared_database_url(postgres: PostgresServer) -> Iterator[str]:
    """One database for all tests of a module."""
    with postgres.database() as url:
        yield url
