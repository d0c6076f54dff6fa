"""A row of the outbox as a message for the broker."""

from __future__ import annotations

import struct
from base64 import b64decode
from binascii import Error as NotBase64
from datetime import UTC, datetime

from db.outbox_relay import OutboxMessage
from roles.amqp import Outgoing, Properties

LARGE = 256 * 1024
"""Bytes of a body from which on a message is sent alone: it may be more than the broker takes, or takes in time."""

_TEXTS = ("message_id", "type", "content_type")
_LOOKED_AT = ("user_id", "expiration")
_LOOKED_AT_HEADERS = (b"CC", b"BCC")
"""What the broker may close the channel over."""
_EPOCH = datetime.fromtimestamp(0, UTC)


class Unsendable(ValueError):
    """The row cannot be made a message of."""


def outgoing(row: OutboxMessage) -> Outgoing:
    """The message.

    Raises:
        Unsendable: its properties are not what `db.outbox` describes.
    """
    try:
        encoded = row.properties.get("encoded")
        properties = _made(row) if encoded is None else Properties.decode(b64decode(encoded, validate=True))
    except (ArithmeticError, AttributeError, LookupError, NotBase64, TypeError, ValueError, struct.error) as error:
        raise Unsendable(f"its properties cannot be sent: {type(error).__name__}: {error}") from error
    return Outgoing(row.body, properties, row.exchange, row.routing_key)


def is_risky(message: Outgoing) -> bool:
    """Whether the broker might close the channel over the message, with all that is in flight on it."""
    if len(message.body) >= LARGE or any(name in message.properties.fields for name in _LOOKED_AT):
        return True
    try:
        return any(name in message.properties.headers for name in _LOOKED_AT_HEADERS)
    except ValueError:
        return True


def _made(row: OutboxMessage) -> Properties:
    texts = {name: row.properties[name].encode() for name in _TEXTS if name in row.properties}
    created_at = max(row.created_at, _EPOCH)  # AMQP knows no time before it, and people write into the table
    properties = Properties({**texts, "timestamp": int(created_at.timestamp()).to_bytes(8)})
    headers = row.properties.get("headers")
    return properties.with_headers(headers) if headers else properties
