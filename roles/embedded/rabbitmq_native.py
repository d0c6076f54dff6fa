"""A RabbitMQ node as a child process: what it is started with, and how it is stopped."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from roles.embedded import survivors
from roles.embedded.erlang_modules import modules_of
from roles.embedded.paths import make_private, needs_quotes, stand_in, write_private
from roles.embedded.process import Child, Command, ServiceEnded, dying_with_parent, running
from roles.embedded.rabbitmq_node import Node, configuration
from roles.embedded.rabbitmq_source import Native

STOP = ((signal.SIGTERM, 15.0),)
# With the host's name in it, the node would lose its data when the host is renamed.
_NAME = "rolecall@localhost"
_MODULES = "modules"
_PLUGIN = "rabbitmq_management"
_EPMD_SECONDS = 10.0
_CALL_SECONDS = 2.0


@asynccontextmanager
async def running_node(source: Native, node: Node, directory: Path) -> AsyncIterator[Child]:
    """Runs the node, and the port mapper daemon that Erlang will not do without, for the length of the block."""
    source, home = await anyio.to_thread.run_sync(_prepare, source, node, directory)
    environment = _environment(source, node, home) | {survivors.MARK: str(directory)}
    async with AsyncExitStack() as stack:
        if home != directory:
            stack.push_async_callback(_remove, home.parent)
        # Left to itself, Erlang would start it as a daemon that outlives the node.
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
            stop=STOP,
        )
        await stack.enter_async_context(running(epmd))
        await _listening(node.epmd_port)
        child = await stack.enter_async_context(running(server))
        stack.push_async_callback(_ease_shutdown, source, environment)
        yield child


def _environment(source: Native, node: Node, directory: Path) -> dict[str, str]:
    """See https://www.rabbitmq.com/docs/configure#supported-environment-variables."""
    return {
        "PATH": f"{source.erlang}:{os.defpath}",
        "HOME": str(directory),  # where the Erlang cookie is kept
        "LC_ALL": "C.UTF-8",
        "RABBITMQ_NODENAME": _NAME,
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
        # Neither of these exists: without them, those in /etc/rabbitmq would be read.
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
        # Before anything else: see `roles.embedded.erlang_modules`. The name is an atom, for quotes get lost.
        "ERL_AFLAGS": f"-eval catch(code:ensure_modules_loaded(element(2,file:consult({_MODULES}))))",
        # Nodes that are bound to cores would all be bound to the same first ones.
        "RABBITMQ_SCHEDULER_BIND_TYPE": "u",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 -kernel inet_dist_use_interface {127,0,0,1}",
    }


def _prepare(source: Native, node: Node, directory: Path) -> tuple[Native, Path]:
    """Writes the node's files, and returns the server and the directory by names that RabbitMQ's scripts can take."""
    write_private(directory / "rabbitmq.conf", configuration(node))
    write_private(directory / "enabled_plugins", f"[{_PLUGIN}].\n")
    write_private(directory / _MODULES, "".join(f"'{name}'.\n" for name in modules_of(source, ("rabbit", _PLUGIN))))
    if not any(map(needs_quotes, (source.script, source.erlang, directory))):
        return source, directory
    shortcut = stand_in(directory)
    make_private(shortcut)
    links = {"server": source.script.parent.parent, "erlang": source.erlang.parent, "node": directory}
    for name, target in links.items():
        (shortcut / name).unlink(missing_ok=True)
        (shortcut / name).symlink_to(target)
    plain = Native(shortcut / "server/sbin" / source.script.name, shortcut / "erlang" / source.erlang.name)
    return plain, shortcut / "node"


async def _remove(directory: Path) -> None:
    with anyio.CancelScope(shield=True):
        await anyio.to_thread.run_sync(partial(shutil.rmtree, directory, ignore_errors=True))


async def _listening(port: int) -> None:
    """Returns once something listens on the port."""
    with anyio.move_on_after(_EPMD_SECONDS):
        while True:
            try:
                stream = await anyio.connect_tcp("127.0.0.1", port)
            except OSError:
                await anyio.sleep(0.01)
            else:
                return await stream.aclose()
    raise ServiceEnded(f"epmd does not listen on port {port}")


async def _ease_shutdown(source: Native, environment: Mapping[str, str]) -> None:
    """Takes out of the node what would make it wait for itself while it shuts down.

    In RabbitMQ 3, the management plugin's event handler asks the application controller to change a setting as it
    ends, and that is waiting for the handler: five seconds, until the question times out. Nothing is lost where
    this fails or cannot be done.
    """
    erl_call = source.erlang / "erl_call"
    question = "gen_event delete_handler [rabbit_event,rabbit_mgmt_db_handler,[]]"
    with anyio.CancelScope(shield=True), anyio.move_on_after(_CALL_SECONDS):
        if await anyio.Path(erl_call).exists():
            await anyio.run_process([str(erl_call), "-sname", _NAME, "-a", question], check=False, env=environment)
