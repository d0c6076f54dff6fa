"""Header values as people read them: whatever they are, something is shown, and it is JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from aiormq import spec
from hypothesis import given
from hypothesis import strategies as st

from roles.amqp.properties import MalformedProperties, Properties
from roles.amqp.values import readable_headers, readable_properties, readable_value


def decoded(**fields: Any) -> Properties:
    return Properties.decode(spec.Basic.Properties(**fields).marshal())


def test_what_another_client_sends_is_read_as_it_was_meant() -> None:
    headers = {
        "text": "é",
        "number": -(2**40),
        "yes": True,
        "half": 0.5,
        "nothing": None,
        "bytes": bytearray(b"\xff"),
        "price": Decimal("1.25"),
        "when": datetime(2026, 1, 31, 12, tzinfo=UTC),
        "deep": [1, {"a": ["b", []]}],
    }
    assert readable_headers(decoded(headers=headers)) == {
        **headers,
        "bytes": r"\xff",
        "price": "1.25",
        "when": "2026-01-31T12:00:00+00:00",
    }


def test_properties_are_read() -> None:
    properties = decoded(message_id="m", priority=3, delivery_mode=2, timestamp=datetime(2026, 1, 31, tzinfo=UTC))
    assert readable_properties(properties) == {
        "message_id": "m",
        "priority": 3,
        "delivery_mode": 2,
        "timestamp": "2026-01-31T00:00:00+00:00",
    }


@pytest.mark.parametrize(
    ("encoded", "shown"),
    [
        (b"S\x00\x00\x00\x02a\xff", "a\\xff"),
        (b"T" + b"\xff" * 8, 2**64 - 1),
        (b"d\x7f\xf8" + bytes(6), "nan"),
        (b"D\xff\x00\x00\x00\x01", "1E-255"),
        (b"\x00", None),
    ],
)
def test_what_has_no_counterpart_is_shown_all_the_same(encoded: bytes, shown: object) -> None:
    assert readable_value(encoded) == shown


def test_what_is_nested_for_no_good_reason_is_cut_short() -> None:
    value = b"V"
    for _ in range(5000):
        value = b"A" + len(value).to_bytes(4) + value
    shown = json.dumps(readable_value(value))
    assert "\\u2026" in shown


@given(st.binary(min_size=1, max_size=80))
def test_any_bytes_are_shown_or_refused(data: bytes) -> None:
    properties = Properties.decode(b"\x20\x00" + len(data).to_bytes(4) + data)
    try:
        shown = readable_headers(properties)
    except MalformedProperties:
        return
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
