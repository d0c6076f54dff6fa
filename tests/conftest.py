"""What every test may use: asyncio on uvloop, and real servers that are started once."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from roles.embedded.postgres import Postgres
from roles.embedded.rabbitmq import RabbitMQ
from tests.services import SOURCES, GivenNode, PostgresServer, RabbitServer, running

# The same examples each time, and no matter how slow the machine is; `--hypothesis-profile default` looks for more.
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

MEMORY = Path("/dev/shm")
ROOM = 4 * 1024**3
"""Bytes that must be free there; a run of the whole suite has been seen to take a tenth of it."""


def pytest_configure() -> None:
    """Puts the data of all servers into memory, if there is room: there a database takes a tenth of the time to make.

    Killed processes lose there what they lose on a disk; power cuts are nobody's test.
    """
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ROOM and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """What a test configures of the logs is its own affair. Tracebacks are plain: rich ones take too long."""
    root = logging.getLogger()
    level = root.level
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        logger_factory=structlog.PrintLoggerFactory(),
    )
    yield
    root.setLevel(level)
    root.handlers[:] = [handler for handler in root.handlers if not type(handler).__module__.startswith("roles.")]


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A PostgreSQL server for this pytest process; don't stop it: tests that do start their own."""
    server = Postgres(tmp_path_factory.mktemp("services"))
    with running(server):
        yield PostgresServer(server)


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """A RabbitMQ node for this pytest process; don't stop it: tests that do start their own.

    It is the one that `TEST_AMQP_URL` names, if that is set: for a version that is not installed here.
    """
    if given := GivenNode.from_environment():
        server = RabbitServer(given)
        with server.api:
            yield server
        return
    node = RabbitMQ(tmp_path_factory.mktemp("services"), source_directory=SOURCES)
    with running(node):
        server = RabbitServer(node)
        with server.api:
            yield server


@pytest.fixture
def database_url(postgres: PostgresServer) -> Iterator[str]:
    """A fresh database at head."""
    with postgres.database() as url:
        yield url


@pytest.fixture
def amqp_url(rabbitmq: RabbitServer) -> Iterator[str]:
    """A fresh virtual host."""
    with rabbitmq.vhost() as url:
        yield url


@pytest.fixture
def management_url(rabbitmq: RabbitServer) -> str:
    """The management API of the node that `amqp_url` is on; `rabbitmq.api` is a client for it."""
    return rabbitmq.node.management_url


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty current directory, so that no `config.toml` or `.env` of the developer's is read."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
