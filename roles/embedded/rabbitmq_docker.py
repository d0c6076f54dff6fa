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

from roles.embedded.paths import write_private
from roles.embedded.process import Child, Command, running
from roles.embedded.rabbitmq_node import USER, Node
from roles.embedded.rabbitmq_source import Docker

_COMMAND_SECONDS = 60.0


@asynccontextmanager
async def running_node(source: Docker, node: Node, directory: Path) -> AsyncIterator[Child]:
    """Runs the container for the length of the block; its data is in a volume of the same name."""
    name = f"rolecall-{hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]}"
    # A file, because a command line is everybody's to read.
    variables = directory / "docker.env"
    text = f"RABBITMQ_DEFAULT_USER={USER}\nRABBITMQ_DEFAULT_PASS={node.password}\nRABBITMQ_DEFAULT_VHOST=/\n"
    await anyio.to_thread.run_sync(write_private, variables, text)
    await _remove(source, name)
    command = Command(
        name="RabbitMQ in Docker",
        arguments=[
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
        environment=dict(os.environ),
        # The client passes it on to the container.
        stop=((signal.SIGTERM, 15.0),),
    )
    try:
        async with running(command) as child:
            yield child
    finally:
        with anyio.CancelScope(shield=True):
            await _remove(source, name)


async def _remove(source: Docker, name: str) -> None:
    """Removes the container, if there is one; a client that was killed leaves it running."""
    with anyio.move_on_after(_COMMAND_SECONDS):
        await anyio.run_process([source.program, "rm", "--force", name], check=False)
