"""Connections that are found among the descriptors of the process: the right ones, and no other."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta

import pytest

from roles.web.accepted import Accepted
from roles.web.listener import address_of, listen
from schema.settings import Address

AT_ONCE, HOUR = timedelta(0), timedelta(hours=1)


class Listening:
    """A listener, and what is connected to it."""

    def __init__(self, stack: ExitStack, bind: str) -> None:
        self._stack = stack
        self.listener = stack.enter_context(listen(Address(bind), setting="api.bind"))
        self.listener.setblocking(True)
        self.accepted = Accepted(self.listener)

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """A client, and the server's end of it."""
        port = address_of(self.listener).port
        client = self._stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
        return client, self._stack.enter_context(self.listener.accept()[0])


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def lives(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "0.0.0.0:0"])
def test_those_of_one_listener_are_ended_and_no_others(stack: ExitStack, bind: str) -> None:
    mine, others = Listening(stack, bind), Listening(stack, bind)
    ended = [mine.connect() for _ in range(3)]
    kept = others.connect()
    assert mine.accepted.end() == 3
    assert not any(lives(client) for client, _ in ended)
    assert lives(kept[0])
    assert lives(mine.connect()[0]), "it listens as before"


def test_a_listener_that_is_closed_is_remembered(stack: ExitStack) -> None:
    mine = Listening(stack, "127.0.0.1:0")
    client, _ = mine.connect()
    mine.listener.close()
    assert mine.accepted.end() == 1
    assert not lives(client)


def test_idle_ones_are_ended_and_busy_ones_spared(stack: ExitStack) -> None:
    mine = Listening(stack, "127.0.0.1:0")
    (idle, _), (busy, _) = mine.connect(), mine.connect()
    assert mine.accepted.end_idle(AT_ONCE, busy={busy.getsockname()}) == 1
    assert not lives(idle)
    assert lives(busy)


def test_what_was_said_to_a_moment_ago_is_not_idle(stack: ExitStack) -> None:
    mine = Listening(stack, "127.0.0.1:0")
    client, end = mine.connect()
    end.sendall(b"a reply")
    assert mine.accepted.end_idle(HOUR, busy=()) == 0
    assert client.recv(7) == b"a reply"
    assert lives(client)


def test_a_reply_that_its_client_is_slow_to_read_is_not_cut_off(stack: ExitStack) -> None:
    mine = Listening(stack, "127.0.0.1:0")
    client, end = mine.connect()
    end.setblocking(False)
    sent = 0
    try:
        while True:
            sent += end.send(b"x" * 100_000)
    except BlockingIOError:
        pass
    assert mine.accepted.end_idle(AT_ONCE, busy=()) == 0
    client.settimeout(60)
    while sent:
        sent -= len(client.recv(100_000))
    assert lives(client)


def test_place_is_made_when_there_is_none_by_those_that_are_idle_for_longest(stack: ExitStack) -> None:
    mine = Listening(stack, "127.0.0.1:0")
    (first, end_of_first), (second, _), (busy, _) = mine.connect(), mine.connect(), mine.connect()
    assert mine.accepted.make_place(4, busy=()) == 0
    time.sleep(0.05)  # noqa: TID251 - the kernel counts milliseconds
    end_of_first.sendall(b"a reply")
    assert first.recv(7) == b"a reply"
    assert mine.accepted.make_place(3, busy={busy.getsockname()}) == 1
    assert not lives(second)
    assert lives(first)
    assert lives(busy)


def test_no_place_is_made_where_nobody_is_idle(stack: ExitStack) -> None:
    mine = Listening(stack, "127.0.0.1:0")
    client, _ = mine.connect()
    assert mine.accepted.make_place(1, busy={client.getsockname()}) == 0
    assert lives(client)
