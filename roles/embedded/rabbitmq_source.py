"""Where the RabbitMQ server comes from: installed, unpacked from Debian's packages, or Docker."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import anyio

from roles.embedded import debian
from schema.errors import DependencyUnavailable

OLDEST = (3, 10)
"""Quorum queues dead-letter at least once since then (https://www.rabbitmq.com/docs/quorum-queues)."""
IMAGE = "rabbitmq:4-management"
_WAYS_OUT = (
    "install RabbitMQ 3.10 or newer (it need not run), or start Docker, or set amqp.example.url to a broker of yours"
)
_PLACES = (
    "usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin",  # Debian, Ubuntu, Red Hat
    "opt/rabbitmq*/sbin",  # the generic archive
    "opt/homebrew/opt/rabbitmq/sbin",
    "usr/local/opt/rabbitmq/sbin",
)
_DOCKER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Native:
    """A server on this machine's disk."""

    script: Path
    """RabbitMQ's own `sbin/rabbitmq-server`; the wrappers of distributions insist on a system user."""
    erlang: Path
    """The directory of `erl` and `epmd`."""

    def __str__(self) -> str:
        return f"RabbitMQ {_version_text(self.script)} in {self.script.parent.parent}"


@dataclass(frozen=True, slots=True)
class Docker:
    """An engine that can run the official image."""

    program: str
    image: str = IMAGE

    def __str__(self) -> str:
        return f"RabbitMQ in Docker ({self.image})"


Source = Native | Docker


async def obtain(directory: Path) -> Source:
    """The server to run: an installed one, else one unpacked below `directory`, else Docker.

    Params:
        directory: where an unpacked server is kept, and looked for first. Many nodes can share it.

    Raises:
        DependencyUnavailable: there is none; the message names the ways out.
    """
    found = installed() or _in_tree(debian.unpacked(directory))
    if found is not None:
        return found
    reasons = []
    if debian.can_fetch():
        try:
            await debian.fetch(directory)
        except DependencyUnavailable as error:
            reasons.append(str(error))
        else:
            found = _in_tree(debian.unpacked(directory))
            if found is not None:
                return found
            reasons.append(f"the packages of this system are older than {'.'.join(map(str, OLDEST))}")
    else:
        reasons.append("this is no Debian or Ubuntu to unpack one from")
    docker = shutil.which("docker")
    if docker is not None and await _answers(docker):
        return Docker(docker)
    reasons.append("no Docker engine answers")
    raise DependencyUnavailable(f"embedded RabbitMQ: none is installed, {', '.join(reasons)}: {_WAYS_OUT}")


def installed(root: Path = Path("/"), path: str | None = None) -> Native | None:
    """The newest server that is installed on this system and new enough.

    Params:
        root: the file system to look in.
        path: where to look for programs; by default, `PATH`.
    """
    sbins = [found for place in _PLACES for found in root.glob(place)]
    for program in ("rabbitmq-server", "rabbitmqctl"):
        found = shutil.which(program, path=path)
        if found is not None:
            sbins.append(Path(found).resolve().parent)
    erl = shutil.which("erl", path=path)
    if erl is None:
        return None
    return _newest(sbins, Path(erl).parent)


def _in_tree(root: Path) -> Native | None:
    return _newest(list(root.glob(_PLACES[0])), root / "usr/lib/erlang/bin")


def _newest(sbins: list[Path], erlang: Path) -> Native | None:
    # The real scripts have this beside them; wrappers have not.
    scripts = [sbin / "rabbitmq-server" for sbin in sbins if (sbin / "rabbitmq-env").exists()]
    fit = [script for script in scripts if script.exists() and _version(script) >= OLDEST]
    return Native(max(fit, key=_version), erlang) if fit else None


def _version_text(script: Path) -> str:
    """The version that RabbitMQ's own library in `plugins` bears in its name, or an empty text."""
    names = [found.name for found in (script.parent.parent / "plugins").glob("rabbit-[0-9]*")]
    return names[0].removeprefix("rabbit-").removesuffix(".ez") if names else ""


def _version(script: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", _version_text(script))[:3])


async def _answers(docker: str) -> bool:
    with anyio.move_on_after(_DOCKER_SECONDS):
        done = await anyio.run_process(
            [docker, "version", "--format", "{{.Server.Version}}"], check=False, env=dict(os.environ)
        )
        return done.returncode == 0
    return False
