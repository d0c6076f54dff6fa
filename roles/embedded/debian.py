"""RabbitMQ and Erlang out of Debian's or Ubuntu's packages, unpacked into a directory: nothing is installed.

It takes no root. apt fetches the packages, so its mirrors, proxies and signatures hold; where the system's package
lists are empty or out of date, apt works with lists of its own, which are kept for the length of the fetch only.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

import anyio
import anyio.to_thread

from schema.errors import DependencyUnavailable

PACKAGE = "rabbitmq-server"
# What else they depend on, any system with apt and Python has.
_WANTED = re.compile(rf"{PACKAGE}|erlang-[a-z0-9+.-]+")
_DEPENDS_ONLY = [f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")]
_APT_GET = ("apt-get", "-q", "-o", "APT::Sandbox::User=")
# Fails where a library is missing that Erlang was linked with.
_SMOKE_TEST = "{ok, _} = application:ensure_all_started(crypto), halt(0)."
_COMMAND_SECONDS = 300.0


def can_fetch() -> bool:
    """Whether this system has apt and dpkg."""
    return all(shutil.which(program) for program in ("apt-get", "apt-cache", "dpkg"))


def unpacked(directory: Path) -> Path:
    """Where `fetch(directory)` leaves the unpacked tree."""
    return directory.resolve() / PACKAGE


async def fetch(directory: Path) -> None:
    """Unpacks the packages into `unpacked(directory)`, unless they are there already.

    The tree appears there whole or not at all. Processes that fetch into the same directory take turns.

    Raises:
        DependencyUnavailable: the packages cannot be had, or do not run here; the message has the last words of
            the program that failed.
    """
    directory = Path(await anyio.Path(directory).resolve())
    await anyio.Path(directory).mkdir(parents=True, exist_ok=True)
    async with _turn(directory / f"{PACKAGE}.lock"):
        if await anyio.Path(unpacked(directory)).exists():
            return
        unfinished = directory / f"{PACKAGE}.unfinished"
        remove = partial(shutil.rmtree, unfinished, ignore_errors=True)
        await anyio.to_thread.run_sync(remove)
        await anyio.Path(unfinished).mkdir()
        # By a name of its own: the apt of a fetch that was killed may go on for a while in the directory of that.
        scratch = Path(mkdtemp(dir=unfinished))
        try:
            packages, tree = await _download(scratch), scratch / "tree"
            async for package in anyio.Path(packages).glob("*.deb"):
                await _run("dpkg", "-x", str(package), str(tree), directory=scratch)
            await anyio.to_thread.run_sync(_make_relocatable, tree)
            await _run(str(tree / "usr/lib/erlang/bin/erl"), "-noinput", "-eval", _SMOKE_TEST, directory=scratch)
            await anyio.Path(tree).rename(unpacked(directory))
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(remove)


async def _download(scratch: Path) -> Path:
    """Returns the directory that the packages are in."""
    try:
        return await _download_into(scratch / "by-system-lists")
    except DependencyUnavailable:
        lists, cache = scratch / "lists", scratch / "cache"
        for folder in (lists / "partial", cache / "archives" / "partial"):
            await anyio.Path(folder).mkdir(parents=True)
        own_lists = ("-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={cache}")
        await _run(*_APT_GET, *own_lists, "update", directory=scratch)
        return await _download_into(scratch / "by-own-lists", *own_lists)


async def _download_into(folder: Path, *options: str) -> Path:
    await anyio.Path(folder).mkdir()
    found = await _run("apt-cache", *options, "depends", "--recurse", *_DEPENDS_ONLY, PACKAGE, directory=folder)
    packages = {name for name in found.splitlines() if _WANTED.fullmatch(name)}
    await _run(*_APT_GET, *options, "download", *sorted(packages), directory=folder)
    return folder


async def _run(*command: str, directory: Path) -> str:
    try:
        with anyio.fail_after(_COMMAND_SECONDS):
            done = await anyio.run_process(
                command, check=False, cwd=directory, env={**os.environ, "LC_ALL": "C.UTF-8"}, start_new_session=True
            )
    except TimeoutError:
        raise DependencyUnavailable(f"{command[0]} took more than {_COMMAND_SECONDS:g} s") from None
    if done.returncode != 0:
        words = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise DependencyUnavailable(f"{command[0]}: {words[-1] if words else f'exit code {done.returncode}'}")
    return done.stdout.decode(errors="replace")


def _make_relocatable(tree: Path) -> None:
    """Makes `erl` look for Erlang where it is itself, rather than where the package would have put it."""
    erl = tree / "usr/lib/erlang/bin/erl"
    here = r'\1="$(cd "$progdir/.." && pwd)"'
    erl.write_text(re.sub(r"^(\s*ROOTDIR)=/usr/lib/erlang$", here, erl.read_text(), flags=re.MULTILINE))


@asynccontextmanager
async def _turn(lock: Path) -> AsyncIterator[None]:
    """Holds the lock for the length of the block; waits for whoever has it."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with anyio.fail_after(_COMMAND_SECONDS):
            while not _try_lock(descriptor):  # noqa: ASYNC110 - the kernel announces no unlocking
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
