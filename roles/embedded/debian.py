"""RabbitMQ and Erlang out of Debian's or Ubuntu's packages, unpacked into a directory: nothing is installed.

It takes no root. The packages come through apt, with its mirrors, proxies and signatures; where the system's package
lists are empty or outdated, apt keeps lists of its own for the length of the fetch.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import structlog

from schema.errors import DependencyUnavailable

log = structlog.get_logger(__name__)

PACKAGE = "rabbitmq-server"
_WANTED = re.compile(rf"({PACKAGE}|erlang-[a-z0-9+.-]+)")
_ONLY_DEPENDS = [f"--no-{kind}" for kind in "recommends suggests conflicts breaks replaces enhances".split()]
_COMMAND_SECONDS = 300.0


def can_fetch() -> bool:
    """Whether this system has apt and dpkg."""
    return all(shutil.which(program) for program in ("apt-get", "apt-cache", "dpkg"))


def unpacked(directory: Path) -> Path:
    """Where `fetch(directory)` leaves the unpacked tree."""
    return directory.resolve() / PACKAGE


async def fetch(directory: Path) -> None:
    """Unpacks the packages into `unpacked(directory)`, unless they are there already.

    It appears there at once, whole or not at all. Processes that fetch into the same directory take turns.

    Raises:
        DependencyUnavailable: apt cannot get the packages; the message has its last words.
    """
    await anyio.Path(directory).mkdir(parents=True, exist_ok=True)
    async with _turn(directory / f"{PACKAGE}.lock"):
        if await anyio.Path(unpacked(directory)).exists():
            return
        scratch = Path(await anyio.to_thread.run_sync(partial(tempfile.mkdtemp, prefix=f"{PACKAGE}.", dir=directory)))
        try:
            await _download(scratch)
            root = scratch / "root"
            for package in sorted(scratch.glob("*.deb")):
                await _run(["dpkg", "-x", str(package), str(root)], scratch)
            await anyio.to_thread.run_sync(_make_relocatable, root)
            await anyio.Path(root).rename(unpacked(directory))
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(partial(shutil.rmtree, scratch, ignore_errors=True))


async def _download(scratch: Path) -> None:
    try:
        await _download_with([], scratch)
    except DependencyUnavailable as error:
        log.info("updating package lists of our own", reason=str(error))
        state, cache = scratch / "lists", scratch / "cache"
        for folder in (state / "partial", cache / "archives" / "partial"):
            folder.mkdir(parents=True)
        options = ["-o", f"Dir::State::lists={state}", "-o", f"Dir::Cache={cache}"]
        await _run(["apt-get", *_APT, *options, "update"], scratch)
        await _download_with(options, scratch)


async def _download_with(options: list[str], scratch: Path) -> None:
    found = await _run(["apt-cache", *options, "depends", "--recurse", *_ONLY_DEPENDS, PACKAGE], scratch)
    packages = sorted({name for name in found.splitlines() if _WANTED.fullmatch(name)})
    await _run(["apt-get", *_APT, *options, "download", *packages], scratch)


_APT = ["-q", "-o", "APT::Sandbox::User=", "-o", "Acquire::Retries=2"]


async def _run(command: list[str], directory: Path) -> str:
    with anyio.fail_after(_COMMAND_SECONDS):
        done = await anyio.run_process(
            command,
            check=False,
            cwd=directory,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
    if done.returncode != 0:
        words = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise DependencyUnavailable(f"{command[0]}: {words[-1] if words else f'exit code {done.returncode}'}")
    return done.stdout.decode(errors="replace")


def _make_relocatable(root: Path) -> None:
    """Makes `erl` look for Erlang where it is itself, instead of where the package would have put it."""
    erl = root / "usr/lib/erlang/bin/erl"
    text = erl.read_text()
    erl.write_text(re.sub(r"^(\s*ROOTDIR)=/usr/lib/erlang$", r'\1="$(cd "$progdir/.." && pwd)"', text, flags=re.M))


@asynccontextmanager
async def _turn(lock: Path) -> AsyncIterator[None]:
    """Holds the lock for the length of the block; waits for whoever has it."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with anyio.fail_after(_COMMAND_SECONDS):
            while not _try_lock(descriptor):
                await anyio.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        flock(descriptor, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return False
    return True
