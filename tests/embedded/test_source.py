"""Where RabbitMQ comes from: the order, and what is told where there is none."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from roles.embedded import debian
from roles.embedded.rabbitmq_source import IMAGE, Docker, Native, in_tree, installed, obtain
from schema.errors import DependencyUnavailable
from tests.embedded.support import program

pytestmark = pytest.mark.anyio


def install(root: Path, version: str, *, place: str = "usr/lib/rabbitmq/lib/rabbitmq_server-{version}") -> Path:
    """Puts what makes up an installed server into a file system; returns its script."""
    home = root / place.format(version=version)
    (home / "sbin").mkdir(parents=True)
    (home / "plugins" / f"rabbit-{version}").mkdir(parents=True)
    (home / "sbin" / "rabbitmq-env").touch()
    (home / "sbin" / "rabbitmq-server").touch()
    return home / "sbin" / "rabbitmq-server"


@pytest.fixture
def erlang(tmp_path: Path) -> Path:
    """A directory with the programs of Erlang, and a path that leads there."""
    home = tmp_path / "usr/lib/erlang/bin"
    program(home, "erl")
    program(home, "epmd")
    (tmp_path / "usr/bin").mkdir()
    (tmp_path / "usr/bin/erl").symlink_to(home / "erl")
    return home


def test_the_newest_installed_server_is_taken(tmp_path: Path, erlang: Path) -> None:
    install(tmp_path, "3.9.13")
    install(tmp_path, "3.10.8")
    newest = install(tmp_path, "3.13.1")
    found = installed(tmp_path, str(tmp_path / "usr/bin"))
    assert found == Native(newest, erlang)
    assert "RabbitMQ 3.13.1" in str(found)


def test_a_server_in_the_path_is_found_by_its_real_script(tmp_path: Path, erlang: Path) -> None:
    script = install(tmp_path, "4.1.0", place="somewhere/else")
    (tmp_path / "usr/bin/rabbitmq-server").symlink_to(program(script.parent, "rabbitmq-server"))
    assert installed(tmp_path, str(tmp_path / "usr/bin")) == Native(script, erlang)


def test_a_wrapper_alone_is_no_server(tmp_path: Path, erlang: Path) -> None:
    program(tmp_path / "usr/bin", "rabbitmq-server", 'echo "Only root or rabbitmq should run it"; exit 1')
    assert installed(tmp_path, str(tmp_path / "usr/bin")) is None


def test_a_server_that_is_too_old_is_none(tmp_path: Path, erlang: Path) -> None:
    install(tmp_path, "3.9.13")
    assert installed(tmp_path, str(tmp_path / "usr/bin")) is None


def test_a_server_without_erlang_is_none(tmp_path: Path) -> None:
    install(tmp_path, "3.10.8")
    assert installed(tmp_path, str(tmp_path / "usr/bin")) is None


def test_an_unpacked_server_is_found_with_its_own_erlang(tmp_path: Path) -> None:
    script = install(tmp_path, "4.0.5")
    assert in_tree(tmp_path) == Native(script, tmp_path / "usr/lib/erlang/bin")
    assert in_tree(tmp_path / "missing") is None


async def test_an_unpacked_server_is_taken_without_asking_anybody(tmp_path: Path, empty_path: Path) -> None:
    script = install(debian.unpacked(tmp_path / "sources"), "3.10.8")
    found = await obtain(tmp_path / "sources")
    assert isinstance(found, Native)
    assert found.script == script


async def test_docker_is_the_last_resort(tmp_path: Path, empty_path: Path) -> None:
    log = tmp_path / "asked"
    docker = program(empty_path, "docker", f'echo "$@" >> {shlex.quote(str(log))}; [ "$1" != image ]')
    assert await obtain(tmp_path / "sources") == Docker(str(docker))
    assert log.read_text().splitlines() == ["version", f"image inspect {IMAGE}", f"pull {IMAGE}"]
    assert IMAGE in str(Docker(str(docker)))


async def test_apt_that_cannot_fetch_gives_way_to_docker(tmp_path: Path, empty_path: Path) -> None:
    for name in ("apt-get", "apt-cache", "dpkg"):
        program(empty_path, name, "echo 'E: no network' >&2; exit 100")
    docker = program(empty_path, "docker")
    assert await obtain(tmp_path / "sources") == Docker(str(docker))
    assert not debian.unpacked(tmp_path / "sources").exists()


async def test_packages_that_are_too_old_are_no_server(tmp_path: Path, empty_path: Path) -> None:
    install(debian.unpacked(tmp_path / "sources"), "3.9.13")
    for name in ("apt-get", "apt-cache", "dpkg"):
        program(empty_path, name, "exit 100")
    with pytest.raises(DependencyUnavailable, match="too old"):
        await obtain(tmp_path / "sources")


@pytest.mark.parametrize(
    ("docker", "reason"),
    [("exit 1", "no Docker engine answers"), ('[ "$1" = version ]', f"Docker cannot pull {IMAGE}")],
)
async def test_the_ways_out_are_told_in_one_line(tmp_path: Path, empty_path: Path, docker: str, reason: str) -> None:
    program(empty_path, "docker", docker)
    for name in ("apt-get", "apt-cache", "dpkg"):
        program(empty_path, name, "echo 'W: careful' >&2; echo 'E: no network' >&2; exit 100")
    with pytest.raises(DependencyUnavailable) as refused:
        await obtain(tmp_path / "sources")
    message = str(refused.value)
    assert "\n" not in message
    for part in ("none is installed", "E: no network", reason, "amqp.example.url"):
        assert part in message


@pytest.fixture
def empty_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A path with nothing in it, so that this machine's own programs do not count."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder
