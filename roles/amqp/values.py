r"""Header values in a form that people and programs can read. Only for looking: a message is kept as its bytes.

Text that is no UTF-8, and byte arrays, are text with escapes (`\xff`); a time is ISO 8601 in UTC, or a number if
there is no such date. See https://www.rabbitmq.com/amqp-0-9-1-errata#section_3 for the types.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from roles.amqp.properties import Properties, end_of_value, entries

_DEEPEST: Final = 16
"""Tables within tables that are looked into; a frame has room for thousands."""

_NUMBERS: Final[Mapping[bytes, str]] = dict(
    zip((b"b", b"B", b"s", b"u", b"I", b"i", b"l", b"L", b"f", b"d", b"t"), "bBhHiIqQfd?", strict=True)
)
"""What Python's `struct` calls them, by type octet."""


def readable_properties(properties: Properties) -> dict[str, Any]:
    """The properties that are set, headers aside, by name."""
    return {name: _PROPERTIES.get(name, readable_text)(value) for name, value in properties.fields.items()}


def readable_headers(properties: Properties) -> dict[str, Any]:
    """The headers, by name.

    Raises:
        MalformedProperties: the bytes are no table.
    """
    return {readable_text(name): readable_value(value) for name, value in properties.headers.items()}


def readable_value(encoded: bytes, *, depth: int = 0) -> Any:
    """A header's value, given as on the wire, its type octet first.

    Raises:
        MalformedProperties: there is a table in it that is none.
    """
    kind, content = encoded[:1], encoded[5:] if encoded[:1] in b"SAFx" else encoded[1:]
    if letter := _NUMBERS.get(kind):
        number = struct.unpack(f">{letter}", content)[0]
        return number if math.isfinite(number) else str(number)
    if kind in _TABLES:
        return "…" if depth == _DEEPEST else _TABLES[kind](content, depth + 1)
    return _OTHERS[kind](content) if kind in _OTHERS else None


def readable_text(data: bytes) -> str:
    r"""Bytes that are no UTF-8 are written as `\xff`."""
    return data.decode(errors="backslashreplace")


def _table(content: bytes, depth: int) -> dict[str, Any]:
    return {readable_text(name): readable_value(value, depth=depth) for name, value in entries(content)}


def _array(content: bytes, depth: int) -> list[Any]:
    return [readable_value(value, depth=depth) for value in _items(content)]


def _items(array: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(array):
        end = end_of_value(array, start)
        yield array[start:end]
        start = end


def _time(encoded: bytes) -> str | int:
    seconds = int.from_bytes(encoded)
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return seconds


def _decimal(encoded: bytes) -> str:
    return str(Decimal(int.from_bytes(encoded[1:], signed=True)).scaleb(-encoded[0]))


_TABLES: Final[Mapping[bytes, Callable[[bytes, int], Any]]] = {b"F": _table, b"A": _array}
_OTHERS: Final[Mapping[bytes, Callable[[bytes], Any]]] = {
    b"S": readable_text,
    b"x": readable_text,
    b"T": _time,
    b"D": _decimal,
}
_PROPERTIES: Final[Mapping[str, Callable[[bytes], Any]]] = {
    "delivery_mode": int.from_bytes,
    "priority": int.from_bytes,
    "timestamp": _time,
}
