"""Where the RabbitMQ server comes from: installed, unpacked from Debian's packages, or Docker."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from roles.embedded import debian
from schema.errors import DependencyUnavailable

OLDEST = (3, 10)
"""Quorum queues dead-letter at least once since then (https://www.rabbitmq.com/docs/quorum-queues)."""
IMAGE = "rabbitmq:4-management"
WAYS_OUT = (
    "install RabbitMQ 3.10 or newer (it need not run), start Docker, or set amqp.example.url to a broker of yours"
)

_DEBIAN = "usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin"
_PLACES = (
    _DEBIAN,
    "opt/rabbitmq*/sbin",  # the generic archive
    "opt/homebrew/opt/rabbitmq/sbin",
    "usr/local/opt/rabbitmq/sbin",
)
_ENGINE_SECONDS = 10.0
_PULL_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Native:
    """A server on the disk of this machine."""

    script: Path
    """RabbitMQ's own `sbin/rabbitmq-server`; the wrappers of distributions insist on a system user."""
    erlang: Path
    """The directory of `erl` and `epmd`."""

    def __str__(self) -> str:
        return f"RabbitMQ {_version_text(self.script)} in {self.script.parent.parent}"


@dataclass(frozen=True, slots=True)
class Docker:
    """An engine that runs the official image."""

    program: str
    image: str = IMAGE

    def __str__(self) -> str:
        return f"RabbitMQ in Docker, from {self.image}"


async def obtain(directory: Path) -> Native | Docker:
    """The server to run: an installed one, else one unpacked in `directory`, else Docker.

    Params:
        directory: where a server that has to be unpacked is kept. Many nodes can share it.

    Raises:
        DependencyUnavailable: there is none; the message, one line, says why and names the ways out.
    """
    found = await anyio.to_thread.run_sync(lambda: installed() or in_tree(debian.unpacked(directory)))
    if found is not None:
        return found
    reasons = ["none is installed"]
    if debian.can_fetch():
        try:
            await debian.fetch(directory)
        except DependencyUnavailable as error:
            reasons.append(f"none could be unpacked ({error})")
        else:
            found = await anyio.to_thread.run_sync(in_tree, debian.unpacked(directory))
            if found is not None:
                return found
            reasons.append("that of this system's packages is too old")
    docker = shutil.which("docker")
    if docker is None or not await _succeeds(docker, "version", within=_ENGINE_SECONDS):
        reasons.append("no Docker engine answers")
    elif await _has_image(docker):
        return Docker(docker)
    else:
        reasons.append(f"Docker cannot pull {IMAGE}")
    raise DependencyUnavailable(f"embedded RabbitMQ cannot be had: {', '.join(reasons)}. The ways out: {WAYS_OUT}")


def installed(root: Path = Path("/"), path: str | None = None) -> Native | None:
    """The newest server that is installed on this system and new enough.

    Params:
        root: the file system to look in.
        path: where to look for programs; by default, the `PATH` of this process.
    """
    places = [found for place in _PLACES for found in root.glob(place)]
    server, erl = shutil.which("rabbitmq-server", path=path), shutil.which("erl", path=path)
    if server is not None:
        places.append(Path(server).resolve().parent)
    if erl is None:
        return None
    # Erlang's own directory has all of its programs; what is in the path may be a link to just one.
    erlang = next((place for place in (Path(erl).resolve().parent, Path(erl).parent) if _has_epmd(place)), None)
    return _newest(places, erlang) if erlang else None


def in_tree(tree: Path) -> Native | None:
    """The server in a tree of unpacked Debian packages, if it is new enough."""
    return _newest(tree.glob(_DEBIAN), tree / "usr/lib/erlang/bin")


def _newest(places: Iterable[Path], erlang: Path) -> Native | None:
    # The real script has this beside it, and a wrapper has not.
    scripts = [place / "rabbitmq-server" for place in places if (place / "rabbitmq-env").exists()]
    fit = [script for script in scripts if _version(script) >= OLDEST]
    return Native(max(fit, key=_version), erlang) if fit else None


def _has_epmd(directory: Path) -> bool:
    return (directory / "epmd").exists()


def _version_text(script: Path) -> str:
    """The version, from the name of the server's own library among its plugins; empty if there is none."""
    names = [found.name for found in (script.parent.parent / "plugins").glob("rabbit-[0-9]*")]
    return names[0].removeprefix("rabbit-").removesuffix(".ez") if names else ""


def _version(script: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", _version_text(script))[:3])


async def _has_image(docker: str) -> bool:
    if await _succeeds(docker, "image", "inspect", IMAGE, within=_ENGINE_SECONDS):
        return True
    return await _succeeds(docker, "pull", IMAGE, within=_PULL_SECONDS)


async def _succeeds(*command: str, within: float) -> bool:
    with anyio.move_on_after(within):
        return (await anyio.run_process(command, check=False, start_new_session=True)).returncode == 0
    return False
