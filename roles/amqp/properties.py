"""A message's properties and headers, kept as the bytes that the producer sent.

A retried or parked message has to keep what it came with, and a decoder that turns values into Python's and
back does not: doubles become floats, milliseconds are rounded, binary strings cannot be encoded again. So
only what is asked for is decoded. See the field types in https://www.rabbitmq.com/amqp-0-9-1-errata#section_3.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping
from typing import Final

_SHORT_STRING: Final = -1
_TABLE: Final = -4
_LAYOUT: Final = (
    ("content_type", 0x8000, _SHORT_STRING),
    ("content_encoding", 0x4000, _SHORT_STRING),
    ("headers", 0x2000, _TABLE),
    ("delivery_mode", 0x1000, 1),
    ("priority", 0x0800, 1),
    ("correlation_id", 0x0400, _SHORT_STRING),
    ("reply_to", 0x0200, _SHORT_STRING),
    ("expiration", 0x0100, _SHORT_STRING),
    ("message_id", 0x0080, _SHORT_STRING),
    ("timestamp", 0x0040, 8),
    ("type", 0x0020, _SHORT_STRING),
    ("user_id", 0x0010, _SHORT_STRING),
    ("app_id", 0x0008, _SHORT_STRING),
    ("cluster_id", 0x0004, _SHORT_STRING),
)
"""In the order of the wire: name, flag, and size in bytes (negative: a length of that size comes first)."""

_INTEGERS: Final = {b"b": ">b", b"B": ">B", b"s": ">h", b"u": ">H", b"I": ">i", b"i": ">I", b"l": ">q", b"L": ">q"}
_SIZES: Final = {code[0]: struct.calcsize(layout) for code, layout in _INTEGERS.items()} | {
    **dict(zip(b"tfdDTV\x00", (1, 4, 8, 5, 8, 0, 0), strict=True)),
    **dict.fromkeys(b"SAFx", -4),
}


class MalformedProperties(ValueError):
    """The bytes are no AMQP properties."""


class Properties:
    """The properties of one message.

    `fields` holds each property that is set (headers aside) as its bytes on the wire, without the length. A
    message is not changed: `with_fields` and `with_headers` make another.
    """

    __slots__ = ("_encoded_headers", "_headers", "fields")

    def __init__(self, fields: Mapping[str, bytes], headers: Mapping[bytes, bytes] | None = None) -> None:
        self.fields = fields
        self._headers = headers
        self._encoded_headers: bytes | None = None

    @classmethod
    def decode(cls, encoded: bytes) -> Properties:
        """Reads the property list of a content header frame: the flags and what follows.

        Raises:
            MalformedProperties: there is less than the flags promise. Header values are not looked at yet.
        """
        properties = cls({})
        fields: dict[str, bytes] = {}
        flags = int.from_bytes(encoded[:2])
        offset = 2
        for name, flag, size in _LAYOUT:
            if flags & flag:
                value, offset = _take(encoded, offset, size)
                if name == "headers":
                    properties._encoded_headers = value
                else:
                    fields[name] = value
        properties.fields = fields
        return properties

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """By name; each value as on the wire, its type octet first.

        Raises:
            MalformedProperties: the bytes are no table.
        """
        if self._headers is None:
            self._headers = dict(entries(self._encoded_headers or b""))
        return self._headers

    def text(self, name: str) -> str | None:
        r"""The property `name` as text; bytes that are no UTF-8 are written as `\xff`."""
        value = self.fields.get(name)
        return None if value is None else value.decode(errors="backslashreplace")

    def integer_header(self, name: str) -> int | None:
        """The header `name` if it is a whole number."""
        if self._headers is None and self._encoded_headers is None:
            return None
        value = self.headers.get(name.encode(), b"")
        layout = _INTEGERS.get(value[:1])
        return None if layout is None else int(struct.unpack(layout, value[1:])[0])

    def with_fields(self, changes: Mapping[str, bytes | None]) -> Properties:
        """With these properties set, or taken out where the value is None."""
        fields = {name: value for name, value in {**self.fields, **changes}.items() if value is not None}
        changed = Properties(fields, self._headers)
        changed._encoded_headers = self._encoded_headers
        return changed

    def with_headers(self, changes: Mapping[str, str | int], *, without: Collection[str] = ()) -> Properties:
        """With these headers set, after those in `without` were taken out. Numbers are written in 32 bits."""
        dropped = {name.encode() for name in without}
        kept = {name: value for name, value in self.headers.items() if name not in dropped}
        return Properties(self.fields, kept | {name.encode(): _encode(value) for name, value in changes.items()})

    def encode(self) -> bytes:
        """The property list, as on the wire."""
        flags, parts = 0, []
        for name, flag, size in _LAYOUT:
            value = self._table() if name == "headers" else self.fields.get(name)
            if value is not None:
                flags |= flag
                parts += [len(value).to_bytes(-size), value] if size < 0 else [value]
        return b"".join([flags.to_bytes(2), *parts])

    def _table(self) -> bytes | None:
        if not self._headers:
            return self._encoded_headers if self._headers is None else self._encoded_headers and b""
        pairs = ((len(name).to_bytes(1), name, value) for name, value in self._headers.items())
        return b"".join(part for pair in pairs for part in pair)


def _take(data: bytes, offset: int, size: int) -> tuple[bytes, int]:
    """The value at `offset`, and where the next one begins."""
    if size < 0:
        size, offset = int.from_bytes(data[offset : offset - size]), offset - size
    end = offset + size
    if end > len(data):
        raise MalformedProperties(f"{len(data)} bytes end before byte {end}")
    return data[offset:end], end


def entries(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The names and values in the content of a table; each value as on the wire, its type octet first.

    Raises:
        MalformedProperties: the bytes are no table.
    """
    offset = 0
    while offset < len(table):
        name, start = _take(table, offset, _SHORT_STRING)
        offset = end_of_value(table, start)
        yield name, table[start:offset]


def end_of_value(data: bytes, start: int) -> int:
    """Where the value ends whose type octet is at `start`. Raises as `entries`."""
    size = _SIZES.get(data[start]) if start < len(data) else None
    if size is None:
        raise MalformedProperties(f"{data[start : start + 1]!r} is no type of a header that AMQP knows")
    return _take(data, start + 1, size)[1]


def _encode(value: str | int) -> bytes:
    if isinstance(value, int):
        return b"I" + struct.pack(">i", value)
    encoded = value.encode(errors="backslashreplace")
    return b"S" + len(encoded).to_bytes(4) + encoded
