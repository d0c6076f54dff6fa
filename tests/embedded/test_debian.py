"""RabbitMQ unpacked from Debian's packages: whole or not at all, once, without root or package lists."""

from __future__ import annotations

import sys
from pathlib import Path
from subprocess import STDOUT

import anyio
import pytest

from roles.embedded import debian
from roles.embedded.rabbitmq_source import in_tree
from schema.errors import DependencyUnavailable
from tests.embedded.support import ROOT, another_process, eventually, program

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not debian.can_fetch(), reason="this is no Debian or Ubuntu"),
]

FETCH = """
import sys
from functools import partial
from pathlib import Path
import anyio
from roles.embedded.debian import fetch
print("fetching", flush=True)
anyio.run(fetch, Path(sys.argv[1]))
"""


@pytest.fixture
def empty_package_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has apt find no package lists, as in a fresh container; who is not root could not fetch them there."""
    (tmp_path / "lists" / "partial").mkdir(parents=True)
    config = tmp_path / "apt.conf"
    config.write_text(f'Dir::State::lists "{tmp_path}/lists";\nDir::Cache "{tmp_path}/cache";\n')
    monkeypatch.setenv("APT_CONFIG", str(config))


@pytest.mark.usefixtures("empty_package_lists")
async def test_a_killed_fetch_leaves_nothing_half_done_and_two_at_once_make_one(tmp_path: Path) -> None:
    sources = tmp_path / "with spaces"
    with another_process(FETCH, str(sources)) as killed:
        await eventually(lambda: any(sources.glob(f"{debian.PACKAGE}.unfinished/*/*")))
        killed.die()
    assert not debian.unpacked(sources).exists()

    async def fetch() -> None:
        done = await anyio.run_process([sys.executable, "-c", FETCH, str(sources)], check=False, stderr=STDOUT)
        assert done.returncode == 0, done.stdout.decode()

    with anyio.fail_after(80):
        async with anyio.create_task_group() as group:
            group.start_soon(fetch)
            group.start_soon(fetch)
    assert names_in(sources) == [debian.PACKAGE, f"{debian.PACKAGE}.lock"]
    server = in_tree(debian.unpacked(sources))
    assert server is not None

    # It runs from wherever it is moved to: nothing in it knows where it was unpacked.
    moved = in_tree(debian.unpacked(sources).rename(tmp_path / "moved"))
    assert moved is not None
    where = "io:put_chars(code:root_dir()), halt()."
    said = await anyio.run_process([str(moved.erlang / "erl"), "-noinput", "-eval", where])
    assert Path(said.stdout.decode()) == moved.erlang.parent


async def test_the_apt_of_a_killed_fetch_is_not_in_the_way_of_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs, sources, begun = tmp_path / "path", tmp_path / "sources", tmp_path / "begun"
    program(programs, "apt-cache", "echo rabbitmq-server")
    first = f'while [ ! -e {tmp_path}/go ]; do /bin/sleep 0.05; done; (: > "$PWD/bad.deb"); : > {tmp_path}/gone'
    second = f": > {tmp_path}/go; while [ ! -e {tmp_path}/gone ]; do /bin/sleep 0.05; done; : > good.deb"
    program(programs, "apt-get", f"if /bin/mkdir {begun}; then {first}; else {second}; fi")
    unpack = '/bin/mkdir -p "$3/usr/lib/erlang/bin"; /bin/cp -p {} "$3/usr/lib/erlang/bin"'
    erl = program(tmp_path, "erl")
    program(programs, "dpkg", f'case "$2" in *bad.deb) exit 1;; esac; {unpack.format(erl)}')
    monkeypatch.setenv("PATH", str(programs))
    with another_process(FETCH, str(sources)) as killed:
        await eventually(begun.exists)
        killed.die()
    with anyio.fail_after(60):
        await debian.fetch(sources)
    assert names_in(sources) == [debian.PACKAGE, f"{debian.PACKAGE}.lock"]


async def test_packages_that_do_not_run_here_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "path"
    program(programs, "apt-cache", "echo rabbitmq-server")
    program(programs, "apt-get", '[ "$4" != download ] || : > one.deb')
    erl = program(tmp_path, "erl", "echo libtinfo.so.6: cannot open shared object file >&2; exit 127")
    program(programs, "dpkg", f'/bin/mkdir -p "$3/usr/lib/erlang/bin"; /bin/cp -p {erl} "$3/usr/lib/erlang/bin"')
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(DependencyUnavailable, match="libtinfo"):
        await debian.fetch(tmp_path / "sources")
    assert names_in(tmp_path / "sources") == [f"{debian.PACKAGE}.lock"]


async def test_the_command_says_in_one_line_what_it_found(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "roles.embedded.fetch", "--directory", str(tmp_path / "sources")]
    done = await anyio.run_process(command, cwd=ROOT)
    assert done.stdout.startswith(b"RabbitMQ ")
    assert done.stdout.count(b"\n") == 1


async def test_the_command_says_in_one_line_what_to_do_where_there_is_none(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "roles.embedded.fetch", "--directory", str(tmp_path / "sources")]
    done = await anyio.run_process(command, cwd=ROOT, env={"PATH": str(tmp_path)})
    assert b"The ways out" in done.stdout
    assert done.stdout.count(b"\n") == 1


def names_in(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())
