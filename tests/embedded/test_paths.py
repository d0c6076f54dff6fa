"""Private directories, and stand-ins for paths that a program cannot take."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from roles.embedded.paths import make_private, needs_quotes, socket_directory, stand_in, write_private
from schema.errors import ConfigurationError


def test_a_socket_is_kept_beside_the_data_where_its_path_is_short_enough(tmp_path: Path) -> None:
    assert socket_directory(Path("/srv/app/.local/postgres")) == Path("/srv/app/.local/postgres")


@pytest.mark.parametrize("directory", ["/srv/" + "long/" * 20, "/srv/a,b/postgres", '/srv/"a"/postgres'])
def test_a_path_that_no_client_could_name_gets_a_stand_in(directory: str) -> None:
    chosen = socket_directory(Path(directory))
    assert chosen.parent == Path(tempfile.gettempdir())
    assert chosen == socket_directory(Path(directory))
    assert chosen != socket_directory(Path(directory + "x"))


def test_the_longest_path_that_is_kept_can_be_bound(tmp_path: Path) -> None:
    name = ".s.PGSQL.5432"
    longest = tmp_path / ("x" * (103 - len(str(tmp_path)) - len(name) - 2))
    assert socket_directory(longest) == longest
    assert socket_directory(longest.with_name(longest.name + "x")) != longest
    longest.mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(longest / name))


def test_a_private_directory_is_only_ours_to_enter(tmp_path: Path) -> None:
    make_private(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(ConfigurationError, match=f"{tmp_path} belongs to user id {owner}"):
        make_private(tmp_path)


def test_a_link_that_somebody_left_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigurationError, match="belongs to"):
        make_private(tmp_path / "link")


def test_a_private_file_is_replaced_whole_and_is_only_ours_to_read(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    write_private(file, "old")
    write_private(file, "new")
    assert file.read_text() == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(("path", "needed"), [("/srv/app-1.0/x_y", False), ("/srv/my app", True), ("/srv/ü", True)])
def test_paths_that_scripts_stumble_over_are_told_from_plain_ones(path: str, needed: bool) -> None:
    assert needs_quotes(Path(path)) is needed
    assert not needs_quotes(stand_in(Path(path)))
