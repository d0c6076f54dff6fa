"""A RabbitMQ node in a container, for machines that have Docker and nothing better."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread

from roles.embedded import survivors
from roles.embedded.paths import write_private
from roles.embedded.process import Child, Command, dying_with_parent, running
from roles.embedded.rabbitmq_node import USER, Node
from roles.embedded.rabbitmq_source import Docker

_COMMAND_SECONDS = 60.0


async def remove_container(source: Docker, directory: Path) -> None:
    """Removes the container of the node in `directory`, if there is one: it can outlive the client that ran it."""
    with anyio.move_on_after(_COMMAND_SECONDS):
        await anyio.run_process([source.program, "rm", "--force", _name(directory)], check=False)


@asynccontextmanager
async def running_node(source: Docker, node: Node, directory: Path) -> AsyncIterator[Child]:
    """Runs the container for the length of the block; its data is in a volume of the same name."""
    name = _name(directory)
    # A file, because a command line is everybody's to read.
    variables = directory / "docker.env"
    text = f"RABBITMQ_DEFAULT_USER={USER}\nRABBITMQ_DEFAULT_PASS={node.password}\nRABBITMQ_DEFAULT_VHOST=/\n"
    await anyio.to_thread.run_sync(write_private, variables, text)
    command = Command(
        name="RabbitMQ in Docker",
        arguments=[
            *dying_with_parent(signal.SIGTERM),
            *(source.program, "run", "--rm", "--name", name),
            # The node's name, and with it where its data is, has the host's name in it.
            *("--hostname", "rolecall"),
            *("--env-file", str(variables)),
            *("--volume", f"{name}:/var/lib/rabbitmq"),
            *("--publish", f"127.0.0.1:{node.amqp_port}:5672"),
            *("--publish", f"127.0.0.1:{node.management_port}:15672"),
            source.image,
        ],
        directory=directory,
        log=directory / "rabbitmq.log",
        environment={**os.environ, survivors.MARK: str(directory)},
        # The client passes it on to the container.
        stop=((signal.SIGTERM, 15.0),),
    )
    try:
        async with running(command) as child:
            yield child
    finally:
        with anyio.CancelScope(shield=True):
            await remove_container(source, directory)


def _name(directory: Path) -> str:
    return f"rolecall-{hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]}"
