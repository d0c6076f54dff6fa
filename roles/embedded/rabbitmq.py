"""A private RabbitMQ node on free loopback ports, with its management page."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path
from urllib.parse import quote

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

from roles.embedded import rabbitmq_docker, rabbitmq_native, survivors
from roles.embedded.amqp_probe import LoginRefused, NotServing, log_in
from roles.embedded.claim import claim
from roles.embedded.rabbitmq_node import USER, node_of
from roles.embedded.rabbitmq_source import Docker, obtain
from schema.errors import ConfigurationError, DependencyUnavailable

_START_SECONDS = 120.0
_LOG_IN_SECONDS = 10.0


class RabbitMQ:
    """The role that runs a RabbitMQ node in `directory/rabbitmq`.

    Params:
        directory: where the data of all embedded services is kept.
        source_directory: where a server that has to be unpacked is kept; many nodes can share it. By default,
            `directory`.

    Raises:
        ConfigurationError: `directory/rabbitmq` is another user's.
    """

    def __init__(self, directory: Path, *, source_directory: Path | None = None) -> None:
        self._directory = directory.resolve() / "rabbitmq"
        self._source_directory = (source_directory or directory).resolve()
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
            ConfigurationError: another process has the directory, or the data in it and the password do not match.
            DependencyUnavailable: no server can be had, or another program has taken one of the node's ports.
            ServiceEnded: the node ended by itself, or did not come up.
        """
        await anyio.to_thread.run_sync(claim, self._directory)
        source = await obtain(self._source_directory)
        mine = partial(survivors.marked_with, self._directory)
        await survivors.end(mine, (*rabbitmq_native.STOP, (signal.SIGKILL, 5.0)), name="RabbitMQ")
        if isinstance(source, Docker):
            await rabbitmq_docker.remove_container(source, self._directory)
        taken = await anyio.to_thread.run_sync(self._node.taken_ports)
        if taken:
            raise DependencyUnavailable(
                f"embedded RabbitMQ: another program has taken its port {taken[0]}: stop that, or start this one anew"
            )
        if isinstance(source, Docker):
            node = rabbitmq_docker.running_node(source, self._node, self._directory)
        else:
            node = rabbitmq_native.running_node(source, self._node, self._directory)
        async with node as child:
            await child.serve(self._ready, within=_START_SECONDS, task_status=task_status, stop=stop)

    async def _ready(self) -> None:
        """Returns once the node lets us in."""
        while True:
            try:
                with anyio.fail_after(_LOG_IN_SECONDS):
                    return await log_in(port=self._node.amqp_port, user=self.user, password=self.password)
            except LoginRefused as error:
                raise ConfigurationError(
                    f"embedded RabbitMQ does not know the password in {self._directory}/node.json ({error}): "
                    f"move {self._directory} away to start with an empty one"
                ) from error
            except (NotServing, TimeoutError):
                await anyio.sleep(0.05)
