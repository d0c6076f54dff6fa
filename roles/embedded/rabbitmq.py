"""A private RabbitMQ node on free loopback ports, with its management page."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote

import anyio
import anyio.to_thread
import structlog
from anyio.abc import TaskStatus

from roles.embedded import rabbitmq_docker, survivors
from roles.embedded.amqp_probe import NotServing, log_in
from roles.embedded.claim import claim
from roles.embedded.paths import make_private, stand_in
from roles.embedded.process import Child, Command, dying_with_parent, running
from roles.embedded.rabbitmq_node import USER, Node, configuration, node_of, write_private
from roles.embedded.rabbitmq_source import Docker, Native, obtain
from schema.errors import DependencyUnavailable

log = structlog.get_logger(__name__)

_START_SECONDS = 120.0
_LOG_IN_SECONDS = 10.0
_STOP = ((signal.SIGTERM, 15.0),)


class RabbitMQ:
    """The role that runs a RabbitMQ node in `directory/rabbitmq`.

    Params:
        directory: where the data of all embedded services is kept.
        source_directory: where a server that has to be unpacked is kept, and shared by any number of nodes;
            by default, `directory`.
    """

    def __init__(self, directory: Path, *, source_directory: Path | None = None) -> None:
        self._directory = directory.resolve() / "rabbitmq"
        self._source_directory = source_directory or directory
        self._node = node_of(self._directory)

    @property
    def url(self) -> str:
        """How to connect, to the virtual host `/`; known before the node runs."""
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return f"amqp://{login}@127.0.0.1:{self._node.amqp_port}/%2F"

    @property
    def management_url(self) -> str:
        """The management page; it wants `user` and `password`."""
        return f"http://127.0.0.1:{self._node.management_port}/"

    @property
    def user(self) -> str:
        return USER

    @property
    def password(self) -> str:
        return self._node.password

    async def run(self, *, task_status: TaskStatus[None], stop: anyio.Event) -> None:
        """Runs the node until `stop` is set, then shuts it down.

        Raises:
            ConfigurationError: another process has the directory.
            DependencyUnavailable: no server can be had, or another program has taken one of the ports.
            ServiceEnded: the node ended by itself.
        """
        await anyio.to_thread.run_sync(claim, self._directory)
        source = await obtain(self._source_directory)
        mine = partial(survivors.marked_with, self._directory)
        await survivors.end(mine, (*_STOP, (signal.SIGKILL, 5.0)), name="RabbitMQ")
        taken = await anyio.to_thread.run_sync(self._node.taken_ports)
        if taken:
            raise DependencyUnavailable(
                f"embedded RabbitMQ: another program has taken port {taken[0]} of 127.0.0.1; stop it, or restart this one"
            )

        async def serve() -> None:
            with anyio.fail_after(_START_SECONDS):
                await self._ready()
            task_status.started()
            await stop.wait()

        if isinstance(source, Docker):
            node = rabbitmq_docker.running_node(source, self._node, self._directory)
        else:
            node = _running_node(source, self._node, self._directory)
        async with node as child:
            await child.during(serve)

    async def _ready(self) -> None:
        """Returns once the node lets us in."""
        while True:
            try:
                with anyio.fail_after(_LOG_IN_SECONDS):
                    return await log_in(port=self._node.amqp_port, user=self.user, password=self.password)
            except (NotServing, TimeoutError):
                await anyio.sleep(0.05)


@asynccontextmanager
async def _running_node(source: Native, node: Node, directory: Path) -> AsyncIterator[Child]:
    """The node, and the port mapper daemon that Erlang will not do without."""
    async with AsyncExitStack() as stack:
        if " " in str(source.script):
            source = await stack.enter_async_context(_without_spaces(source))
        environment = _environment(source, node, directory)
        await anyio.to_thread.run_sync(_write_files, node, directory)
        # Left to itself Erlang would start it as a daemon, on the port that all of this machine's nodes share.
        epmd = Command(
            name="epmd",
            arguments=[*dying_with_parent(signal.SIGKILL), str(source.erlang / "epmd")],
            directory=directory,
            log=directory / "epmd.log",
            environment=environment,
            stop=((signal.SIGTERM, 2.0),),
        )
        server = Command(
            name="RabbitMQ",
            arguments=[*dying_with_parent(signal.SIGTERM), str(source.script)],
            directory=directory,
            log=directory / "rabbitmq.log",
            environment=environment,
            stop=_STOP,
        )
        await stack.enter_async_context(running(epmd))
        await _listening(node.epmd_port)
        yield await stack.enter_async_context(running(server))


def _environment(source: Native, node: Node, directory: Path) -> dict[str, str]:
    """See https://www.rabbitmq.com/docs/configure#supported-environment-variables."""
    return {
        "PATH": f"{source.erlang}:{os.defpath}",
        "HOME": str(directory),  # of the Erlang cookie
        "LC_ALL": "C.UTF-8",
        survivors.MARK: str(directory),
        # With the host's name in it, the node would lose its data when the host is renamed.
        "RABBITMQ_NODENAME": "rolecall@localhost",
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "advanced.config"),
        "RABBITMQ_CONF_ENV_FILE": str(directory / "rabbitmq-env.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(directory / "data"),
        "RABBITMQ_LOG_BASE": str(directory / "log"),
        "RABBITMQ_PID_FILE": str(directory / "rabbitmq.pid"),
        "RABBITMQ_DIST_PORT": str(node.distribution_port),
        "ERL_EPMD_PORT": str(node.epmd_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_CRASH_DUMP_SECONDS": "0",
        # Several nodes bound to the same first cores would get in each other's way.
        "RABBITMQ_SCHEDULER_BIND_TYPE": "u",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 -kernel inet_dist_use_interface {127,0,0,1}",
    }


def _write_files(node: Node, directory: Path) -> None:
    write_private(directory / "rabbitmq.conf", configuration(node))
    write_private(directory / "enabled_plugins", "[rabbitmq_management].\n")


@asynccontextmanager
async def _without_spaces(source: Native) -> AsyncIterator[Native]:
    """The same server by a path without spaces, which RabbitMQ's scripts cannot take."""
    home = source.script.parent.parent
    shortcut = stand_in(home)
    await anyio.to_thread.run_sync(make_private, shortcut)
    link = anyio.Path(shortcut) / f"server-{os.getpid()}"
    await link.unlink(missing_ok=True)
    await link.symlink_to(home)
    try:
        yield Native(Path(link) / "sbin" / source.script.name, source.erlang)
    finally:
        with anyio.CancelScope(shield=True):
            await link.unlink()


async def _listening(port: int) -> None:
    with anyio.fail_after(_LOG_IN_SECONDS):
        while True:
            try:
                stream = await anyio.connect_tcp("127.0.0.1", port)
            except OSError:
                await anyio.sleep(0.01)
            else:
                return await stream.aclose()
