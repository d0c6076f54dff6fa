from __future__ import annotations

import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from aiormq import spec
from hypothesis import given
from hypothesis import strategies as st

from roles.amqp.properties import MalformedProperties, Properties

ALL = spec.Basic.Properties(
    content_type="application/json",
    content_encoding="identity",
    headers={
        "text": "x",
        "number": 7,
        "big": 2**40,
        "negative": -1,
        "fraction": 0.1,
        "yes": True,
        "nothing": None,
        "when": datetime(2026, 1, 31, tzinfo=UTC),
        "price": Decimal("1.25"),
        "bytes": bytearray(b"\xff\x00"),
        "list": [1, "two", {"three": 3}],
        "table": {"a": {"b": "c"}},
    },
    delivery_mode=2,
    priority=4,
    correlation_id="c",
    reply_to="r",
    expiration="60000",
    message_id="m",
    timestamp=datetime(2026, 1, 31, tzinfo=UTC),
    message_type="t",
    user_id="u",
    app_id="a",
)
"""Written by pamqp, which is not the code under test."""


def test_what_is_decoded_and_encoded_again_is_the_same_bytes() -> None:
    encoded = ALL.marshal()

    assert Properties.decode(encoded).encode() == encoded


def test_so_it_is_when_the_headers_were_looked_at() -> None:
    encoded = ALL.marshal()
    properties = Properties.decode(encoded)

    assert set(properties.headers) == {name.encode() for name in ALL.headers or {}}
    assert properties.encode() == encoded


def test_fields_by_name() -> None:
    properties = Properties.decode(ALL.marshal())

    assert properties.text("message_id") == "m"
    assert properties.text("type") == "t"
    assert properties.text("cluster_id") is None
    assert properties.integer_header("number") == 7
    assert properties.integer_header("negative") == -1
    assert properties.integer_header("text") is None
    assert properties.integer_header("absent") is None


@pytest.mark.parametrize("value", [0, 1, -1, 127, 200, -200, 40_000, 70_000, -70_000, 3_000_000_000, 2**40, -(2**40)])
def test_whole_numbers_of_every_width(value: int) -> None:
    properties = Properties.decode(spec.Basic.Properties(headers={"n": value}).marshal())

    assert properties.integer_header("n") == value


def test_without_properties() -> None:
    properties = Properties.decode(spec.Basic.Properties().marshal())

    assert properties.text("message_id") is None
    assert properties.integer_header("x") is None
    assert properties.encode() == b"\x00\x00"


def test_headers_are_added_and_taken_out_and_the_rest_is_kept() -> None:
    before = Properties.decode(
        spec.Basic.Properties(message_id="m", headers={"a": 1, "b": "two", "c": [3]}).marshal()
    )

    after = before.with_fields({"app_id": b"app"}).with_headers({"d": "four", "e": 5}, without=["a"])

    headers = _read_by_pamqp(after)
    assert headers.headers == {"b": "two", "c": [3], "d": "four", "e": 5}
    assert (headers.message_id, headers.app_id) == ("m", "app")
    assert before.integer_header("a") == 1, "the original is not changed"


def test_a_field_is_taken_out() -> None:
    properties = Properties.decode(ALL.marshal()).with_fields({"expiration": None, "user_id": None})

    assert _read_by_pamqp(properties).expiration is None
    assert _read_by_pamqp(properties).message_id == "m"


def test_text_that_is_no_utf8() -> None:
    properties = Properties({"message_id": b"\xffid"})

    assert properties.text("message_id") == r"\xffid"
    assert Properties.decode(properties.encode()).encode() == properties.encode()


@pytest.mark.parametrize(
    "table",
    [
        b"\x05ab",  # the name is longer than the table
        b"\x01a",  # no type
        b"\x01aZ",  # no such type
        b"\x01aS\x00\x00\x00\x09x",  # the value is longer than the table
        b"\x01aI\x00",  # half a number
    ],
)
def test_malformed_headers(table: bytes) -> None:
    properties = Properties.decode(b"\x20\x00" + len(table).to_bytes(4) + table)

    with pytest.raises(MalformedProperties):
        _ = properties.headers


def test_less_than_the_flags_promise() -> None:
    with pytest.raises(MalformedProperties):
        Properties.decode(b"\x80\x00\x09x")


field_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=20)
    | st.binary(max_size=20).map(bytearray)
    | st.floats(width=32, allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(headers=st.dictionaries(st.text(max_size=20), field_values, max_size=6), message_id=st.text(max_size=40))
def test_any_headers_survive(headers: dict[str, Any], message_id: str) -> None:
    encoded = spec.Basic.Properties(headers=headers, message_id=message_id).marshal()

    properties = Properties.decode(encoded)

    assert len(properties.headers) == len(headers)
    assert properties.encode() == encoded
    assert Properties.decode(properties.with_headers({"x": 1}).encode()).integer_header("x") == 1


@given(st.binary(max_size=60))
def test_no_bytes_do_worse_than_malformed(encoded: bytes) -> None:
    try:
        properties = Properties.decode(encoded)
        properties.integer_header("x")
        for name in properties.fields:
            properties.text(name)
    except MalformedProperties:
        pass


def _read_by_pamqp(properties: Properties) -> spec.Basic.Properties:
    encoded = properties.encode()
    read = spec.Basic.Properties()
    read.unmarshal(struct.unpack(">H", encoded[:2])[0], encoded[2:])
    return read
