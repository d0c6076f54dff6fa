"""Which modules a node is told to load at its start."""

from __future__ import annotations

from pathlib import Path

from roles.embedded.erlang_modules import modules_of
from roles.embedded.rabbitmq_source import Native


def application(library: Path, name: str, needs: str, *modules: str, version: str = "1.2.3") -> None:
    """Lays out an application as both Erlang and RabbitMQ do."""
    ebin = library / f"{name}-{version}" / "ebin"
    ebin.mkdir(parents=True)
    head = f'{{application, {name}, [{{description, "it\'s"}},'
    (ebin / f"{name}.app").write_text(f"{head}\n  {{applications,\n   [{needs}]}},\n {{env, []}}]}}.\n")
    for module in modules:
        (ebin / f"{module}.beam").touch()


def source(tmp_path: Path) -> Native:
    return Native(tmp_path / "server/sbin/rabbitmq-server", tmp_path / "erlang/bin")


def test_they_are_those_of_all_that_the_applications_stand_on(tmp_path: Path) -> None:
    plugins, erlang = tmp_path / "server/plugins", tmp_path / "erlang/lib"
    application(plugins, "rabbit", "kernel,\n 'ra' , rabbit_common", "rabbit", "rabbit_queue")
    application(plugins, "rabbit_common", "kernel % and, in a circle, rabbit\n, rabbit", "rabbit_misc")
    application(plugins, "ra", "", "ra", "Elixir.Ra")
    application(plugins, "rabbitmq_mqtt", "rabbit", "rabbit_mqtt")
    application(erlang, "kernel", "", "file", version="8.5")
    application(erlang, "kernel_more", "", "of_another_application")
    (plugins / "rabbit-1.2.3/ebin/notes.txt").touch()
    expected = ["Elixir.Ra", "file", "ra", "rabbit", "rabbit_misc", "rabbit_queue"]
    assert sorted(modules_of(source(tmp_path), ["rabbit"])) == expected
    assert sorted(modules_of(source(tmp_path), ["rabbitmq_mqtt", "rabbit"])) == sorted([*expected, "rabbit_mqtt"])


def test_what_is_not_to_be_seen_is_left_to_the_node(tmp_path: Path) -> None:
    plugins = tmp_path / "server/plugins"
    application(plugins, "rabbit", "kernel, ra", "rabbit")
    (plugins / "ra-2.0.ez").write_bytes(b"an archive")
    (plugins / "odd-1/ebin").mkdir(parents=True)
    (plugins / "odd-1/ebin/odd.app").write_bytes(b"\xff no application")
    assert modules_of(source(tmp_path), ["rabbit", "odd", "missing"]) == ["rabbit"]
