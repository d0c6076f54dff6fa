"""What every test may use: asyncio on uvloop, and real servers that are started once."""

from __future__ import annotations

import gc
import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

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


_shared = pytest.StashKey[ExitStack]()
_started = pytest.StashKey[Future[None]]()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Starts one RabbitMQ for all the processes that xdist is about to start, and that inherit the environment.

    Each node takes seconds of CPU time to start. This one starts while they collect their tests.
    """
    config = session.config
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None) or GivenNode.from_environment():
        return
    stack = config.stash[_shared] = ExitStack()
    directory = stack.enter_context(TemporaryDirectory(dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))
    node = RabbitMQ(Path(directory), source_directory=SOURCES)
    os.environ |= {"TEST_AMQP_URL": node.url, "TEST_AMQP_MANAGEMENT_URL": node.management_url}
    starter = stack.enter_context(ThreadPoolExecutor(1))
    config.stash[_started] = starter.submit(stack.enter_context, running(node))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stops it; says why it did not start, if it did not."""
    stack = session.config.stash.get(_shared, None)
    if stack is not None:
        with stack:
            session.config.stash[_started].result()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with those that wait for long, so that in the end nobody waits for one of them alone."""
    items.sort(key=lambda item: item.get_closest_marker("early") is None)


def pytest_collection_finish() -> None:
    """What was imported and collected stays: to look through it again and again takes a twentieth of the time."""
    gc.collect()
    gc.freeze()


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
    with running(server), closing(PostgresServer(server)) as given:
        yield given


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """A RabbitMQ node for all tests; don't stop it: tests that do start their own.

    It is the one that `TEST_AMQP_URL` names, if that is set: by us for all processes of xdist, or by somebody for a
    version that is not installed here.
    """
    if given := GivenNode.from_environment():
        server = RabbitServer(given)
        with server.api:
            server.wait()
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
