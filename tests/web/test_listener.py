"""The listening socket: had, or said why not before anything is started."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from roles.web.listener import _explain, address_of, listen
from schema.errors import ConfigurationError
from schema.settings import Address


def test_port_zero_is_a_free_one_and_is_reported() -> None:
    with listen(Address("127.0.0.1:0"), setting="api.bind") as listener:
        address = address_of(listener)
        assert address.host == "127.0.0.1"
        assert address.port > 0
        with socket.create_connection((address.host, address.port), timeout=5):
            pass


def test_a_taken_port_is_an_error_that_names_the_setting_its_variable_and_who_has_it() -> None:
    with listen(Address("127.0.0.1:0"), setting="api.bind") as listener:
        address = address_of(listener)
        with pytest.raises(ConfigurationError) as raised:
            listen(address, setting="api.bind")
    message = str(raised.value)
    assert message.startswith(
        f'api.bind = "{address}" (APP_API__BIND): the port is in use by process {os.getpid()} ('
    )
    assert message.endswith("): choose another")


def test_a_port_can_be_had_again_at_once() -> None:
    with listen(Address("127.0.0.1:0"), setting="api.bind") as listener:
        address = address_of(listener)
        with socket.create_connection((address.host, address.port), timeout=5):
            listener.setblocking(True)
            listener.accept()[0].close()  # leaves a TIME_WAIT behind on our side
    listen(address, setting="api.bind").close()


def test_an_address_of_another_machine_is_an_error_that_says_what_would_do() -> None:
    with pytest.raises(
        ConfigurationError, match=r'ops\.bind = "192\.0\.2\.1:80" \(APP_OPS__BIND\): .*try 127\.0\.0\.1'
    ):
        listen(Address("192.0.2.1:80"), setting="ops.bind")


def test_a_name_that_does_not_resolve_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"no\.such\.host\.invalid is no address of a host"):
        listen(Address("no.such.host.invalid:80"), setting="api.bind")


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EACCES, "this user may not listen on that port: choose one above 1023"),
        (errno.EINVAL, "cannot listen there: Invalid argument"),
    ],
)
def test_other_reasons_are_said_too(number: int, reason: str) -> None:
    assert _explain(OSError(number, os.strerror(number)), Address("127.0.0.1:80")) == reason


def test_a_port_of_a_process_that_cannot_be_seen_is_in_use_all_the_same() -> None:
    with socket.socket() as bound:  # bound, and not listening, it is in no table
        bound.bind(("127.0.0.1", 0))
        address = Address(f"127.0.0.1:{bound.getsockname()[1]}")
        with pytest.raises(ConfigurationError, match="the port is in use by another program: choose another"):
            listen(address, setting="api.bind")


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_ipv6_is_reported_in_brackets() -> None:
    try:
        listener = listen(Address("[::1]:0"), setting="api.bind")
    except ConfigurationError:
        pytest.skip("no IPv6 loopback here")
    with listener:
        assert str(address_of(listener)) == f"[::1]:{listener.getsockname()[1]}"
