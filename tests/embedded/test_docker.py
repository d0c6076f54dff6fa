"""What Docker is asked for. No engine can be assumed here, so a stand-in writes down what it is told."""

from __future__ import annotations

import shlex
from pathlib import Path

import anyio
import pytest
from anyio import TASK_STATUS_IGNORED

from roles.embedded.rabbitmq_docker import running_node
from roles.embedded.rabbitmq_node import USER, choose_node
from roles.embedded.rabbitmq_source import IMAGE, Docker
from tests.embedded.support import eventually

pytestmark = pytest.mark.anyio


async def test_a_container_is_run_on_loopback_and_removed(tmp_path: Path) -> None:
    log = tmp_path / "asked"
    log.touch()
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$@" >> {shlex.quote(str(log))}\n[ "$1" != run ] || exec sleep 60\n')
    docker.chmod(0o755)
    directory = tmp_path / "rabbitmq"
    node = choose_node(directory)

    async def is_asked() -> None:
        await eventually(lambda: log.read_text().startswith("run"))
        stop.set()

    stop = anyio.Event()
    async with running_node(Docker(str(docker)), node, directory) as child:
        await child.serve(is_asked, within=20, task_status=TASK_STATUS_IGNORED, stop=stop)

    run, removed = log.read_text().splitlines()
    name = removed.removeprefix("rm --force ")
    assert f"--name {name} " in run
    assert f"--volume {name}:/var/lib/rabbitmq " in run
    assert f"--publish 127.0.0.1:{node.amqp_port}:5672 " in run
    assert f"--publish 127.0.0.1:{node.management_port}:15672 " in run
    assert run.endswith(IMAGE)
    assert node.password not in run
    variables = (directory / "docker.env").read_text().splitlines()
    assert f"RABBITMQ_DEFAULT_USER={USER}" in variables
    assert f"RABBITMQ_DEFAULT_PASS={node.password}" in variables
