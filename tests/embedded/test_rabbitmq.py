"""The embedded RabbitMQ: started, stopped, killed, and taken over from a parent that was killed."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE

import anyio
import httpx
import pytest
from anyio import TASK_STATUS_IGNORED

from roles.embedded import debian, survivors
from roles.embedded.amqp_probe import LoginRefused, log_in
from roles.embedded.process import ServiceEnded
from roles.embedded.rabbitmq import RabbitMQ
from roles.embedded.rabbitmq_node import choose_node, node_of
from roles.embedded.rabbitmq_source import in_tree, installed
from schema.errors import ConfigurationError, DependencyUnavailable
from tests.embedded.support import (
    HOLD,
    LOOPBACK,
    another_process,
    eventually,
    listening_addresses,
    run_until_it_fails,
    up,
)
from tests.services import SOURCES

pytestmark = [pytest.mark.anyio, pytest.mark.early]


def rabbitmq(directory: Path) -> RabbitMQ:
    return RabbitMQ(directory, source_directory=SOURCES)


def processes(directory: Path) -> list[int]:
    return survivors.marked_with(directory / "rabbitmq")


def management(node: RabbitMQ) -> httpx.Client:
    return httpx.Client(
        base_url=f"{node.management_url}api", auth=(node.user, node.password), timeout=20, trust_env=False
    )


def store(node: RabbitMQ, text: str) -> None:
    """Puts a persistent message into a quorum queue."""
    with management(node) as api:
        queue = {"durable": True, "arguments": {"x-queue-type": "quorum"}}
        api.put("/queues/%2F/kept", json=queue).raise_for_status()
        message = {
            "properties": {"delivery_mode": 2},
            "routing_key": "kept",
            "payload": text,
            "payload_encoding": "string",
        }
        published = api.post("/exchanges/%2F/amq.default/publish", json=message).raise_for_status()
        assert published.json() == {"routed": True}


def stored(node: RabbitMQ) -> list[str]:
    """What is in the queue; it stays there."""
    with management(node) as api:
        wanted = {"count": 10, "ackmode": "ack_requeue_true", "encoding": "auto"}
        return [each["payload"] for each in api.post("/queues/%2F/kept/get", json=wanted).raise_for_status().json()]


async def test_data_outlives_a_restart_and_a_death_and_nothing_is_left_running_or_listening(tmp_path: Path) -> None:
    node = rabbitmq(tmp_path / "with spaces")
    async with up(node):
        await log_in(port=port_of(node), user=node.user, password=node.password)
        with pytest.raises(LoginRefused, match="403 ACCESS_REFUSED"):
            await log_in(port=port_of(node), user=node.user, password="wrong")
        await a_node_with_another_password_says_what_to_do(node, tmp_path / "other")
        store(node, "kept")
        assert_all_modules_are_loaded(node)
        running = processes(tmp_path / "with spaces")
        assert len(running) > 2
        assert {"0100007F"} <= listening_addresses(running) <= LOOPBACK
    assert processes(tmp_path / "with spaces") == []
    assert node_of(tmp_path / "with spaces" / "rabbitmq").taken_ports() == []

    again = rabbitmq(tmp_path / "with spaces")
    assert again.url == node.url

    async def kill() -> None:
        assert stored(again) == ["kept"]
        store(again, "confirmed")
        # A quorum queue that is younger than this does not survive: RabbitMQ 3.10 and 4.0 write the list of them
        # to disk within three seconds, and when killed before that they forget where its messages are.
        lists = [*(tmp_path / "with spaces" / "rabbitmq").rglob("names.dets")]
        await eventually(lambda: any(b"_kept" in each.read_bytes() for each in lists))
        (virtual_machine,) = survivors.working_in(tmp_path / "with spaces" / "rabbitmq", "beam.smp")
        os.kill(virtual_machine, signal.SIGKILL)

    with pytest.raises(ServiceEnded, match="RabbitMQ ended"):
        await run_until_it_fails(again, kill)
    await eventually(lambda: processes(tmp_path / "with spaces") == [])
    third = rabbitmq(tmp_path / "with spaces")
    assert third.url == node.url
    async with up(third):
        assert stored(third) == ["kept", "confirmed"]
    for log in (tmp_path / "with spaces" / "rabbitmq").glob("*.log*"):
        assert node.password not in log.read_text()
        assert "disk space monitor" not in log.read_text()


def assert_all_modules_are_loaded(node: RabbitMQ) -> None:
    """Some of them nobody would need: they are there because the node was told to load them."""
    listed = re.findall(r"'(.+)'", (node._directory / "modules").read_text())
    assert {"rabbit", "rabbit_mgmt_app", "mnesia"} <= set(listed)
    source = installed() or in_tree(debian.unpacked(SOURCES))
    assert source is not None
    call = [str(source.erlang / "erl_call"), "-sname", "rolecall@localhost", "-a", "code all_loaded []"]
    answer = subprocess.run(
        call, env={"HOME": str(node._directory), "ERL_EPMD_PORT": str(node._node.epmd_port)}, check=True, stdout=PIPE
    )
    loaded = re.findall(rb"\{'?([^ ',]+)'?, *(?:\"|preloaded)", answer.stdout)
    assert {name.encode() for name in listed} <= set(loaded)


async def a_node_with_another_password_says_what_to_do(node: RabbitMQ, directory: Path) -> None:
    """As after the loss of `node.json`, where the data knows another password."""
    other = rabbitmq(directory)
    other._node = replace(node._node, password="wrong")
    with pytest.raises(ConfigurationError, match=r"node\.json .*403.* move"):
        await other._ready()


async def test_a_killed_parent_takes_its_node_with_it(tmp_path: Path) -> None:
    with another_process(HOLD, "rabbitmq", str(tmp_path)) as parent:
        assert rabbitmq(tmp_path).url == parent.line
        with pytest.raises(ConfigurationError, match=f"process {parent.pid} "):
            await rabbitmq(tmp_path).run(task_status=TASK_STATUS_IGNORED, stop=anyio.Event())
        parent.die()
        await eventually(lambda: processes(tmp_path) == [])


async def test_a_node_that_outlives_its_parent_is_stopped_at_the_next_start(tmp_path: Path) -> None:
    # Without setpriv in its path, the parent cannot have the kernel tell its children of its death.
    with another_process(HOLD, "rabbitmq", str(tmp_path), environment={"PATH": ""}) as parent:
        parent.die()
        left = processes(tmp_path)
        assert left
        node = rabbitmq(tmp_path)
        assert node.url == parent.line
        async with up(node):
            store(node, "of the second process")
            assert not set(left) & set(processes(tmp_path))
    assert processes(tmp_path) == []


async def test_a_port_that_another_program_takes_meanwhile_is_named(tmp_path: Path, taken: socket.socket) -> None:
    node = rabbitmq(tmp_path)
    taken.bind(("127.0.0.1", port_of(node)))
    with pytest.raises(DependencyUnavailable, match=f"port {port_of(node)}"):
        await node.run(task_status=TASK_STATUS_IGNORED, stop=anyio.Event())


def test_the_next_process_chooses_ports_anew_if_another_program_has_taken_one(
    tmp_path: Path, taken: socket.socket
) -> None:
    first = choose_node(tmp_path)
    assert choose_node(tmp_path) == first
    taken.bind(("127.0.0.1", first.management_port))
    second = choose_node(tmp_path)
    assert not set(second.ports) & set(first.ports)
    assert second.password == first.password
    assert choose_node(tmp_path) == second


def test_what_a_node_keeps_is_only_ours_to_read_and_its_password_is_its_own(tmp_path: Path) -> None:
    first, second = choose_node(tmp_path / "a"), choose_node(tmp_path / "b")
    assert first.password != second.password
    assert not set(first.ports) & set(second.ports)
    assert stat.S_IMODE((tmp_path / "a" / "node.json").stat().st_mode) == 0o600


def port_of(node: RabbitMQ) -> int:
    port = httpx.URL(node.url).port
    assert port is not None
    return port


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    with socket.socket() as other:
        yield other
