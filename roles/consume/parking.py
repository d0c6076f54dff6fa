"""A message in the parking lot: which one it is, why it is there, and how it is sent once more.

**Which one.** The archiver gets a message again if it died between storing it and its ack. It must find the row
again, and two messages that look alike must not become one. So, in this order:

- What we parked ourselves carries a number of its own, `retry.FAILURE_ID`: with that its bytes are unique.
- What the broker parked and has an id is known by its bytes, in which the broker wrote down when it did so. The first
  delivery of a message that looks like a stored one is another parking of it.
- What the broker parked and has no id can look like another message, and nothing can tell the two apart. It is never
  taken for one that is stored: after a crash it may be there twice, and then says so.

Besides, of a message with an id there is one open row at a time, whatever parked it how often.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final
from uuid import uuid4

from db.inbox import storable
from db.parked_messages import NewParkedMessage, ParkedMessage
from roles.amqp import Delivery, Properties
from roles.amqp.properties import MalformedProperties
from roles.amqp.values import readable_headers
from roles.consume.retry import (
    BROKERS_OWN,
    ERROR,
    FAILED_AT,
    FAILURE_ID,
    LAST_ATTEMPT,
    OURS,
    attempt_of,
    one_line,
    without_effects,
)

_COUNTED: Final = ("x-delivery-count", "x-acquired-count")
"""What differs between two deliveries of the same message."""

_PLAUSIBLE: Final = timedelta(days=366)
"""How long ago a message may say that it was parked."""

LOOKALIKE: Final = "may be there twice: the broker delivered it again after a crash, and it has no id to know it by"

_REASONS: Final = {
    "delivery_limit": "delivered more often than consume.delivery_limit: each time the process died, or lost its "
    "connection, while it had the message in hand",
    "rejected": "parked by the broker itself, because it could not be published again; what it failed with is in "
    "the logs",
    "expired": "expired in the queue",
    "maxlen": "the queue was full",
}
"""What it means that the broker dead-lettered a message, by its word for it."""


def to_be_archived(delivery: Delivery, *, broker: str, queue: str, now: datetime) -> NewParkedMessage:
    """A message from the parking lot of `queue`, as it is to be stored. It may consist of whatever it likes."""
    properties = delivery.properties
    message_id = properties.fields.get("message_id")
    headers = _headers(properties)
    died = _death(headers, queue)
    return NewParkedMessage(
        broker=broker,
        queue=queue,
        message_id=storable(message_id) if message_id else None,
        body=delivery.body,
        properties=properties.encode(),
        error=_reason(headers, died),
        attempts=min(attempt_of(properties), LAST_ATTEMPT),
        parked_at=_time(died.get("time") if died else headers.get(FAILED_AT), now),
        parking=_digest(queue, delivery, without=_COUNTED),
        fingerprint=_digest(queue, delivery, without=(*OURS, *BROKERS_OWN)) if message_id else None,
        note=None,
    )


def as_another(delivery: Delivery, message: NewParkedMessage) -> NewParkedMessage | None:
    """The message as one more of those that look alike; None if it is the stored one that it looks like."""
    headers = _headers(delivery.properties)
    if FAILURE_ID in headers and _death(headers, message.queue) is None:
        return None
    if delivery.redelivered and message.message_id is not None:
        return None
    note = LOOKALIKE if delivery.redelivered else None
    return replace(message, parking=f"{message.parking} {uuid4().hex}", note=note)


def to_be_replayed(message: ParkedMessage) -> Properties:
    """The properties to send a parked message with once more: its producer's, so that the ladder starts afresh.

    A message without an id is given one, always the same, so that a replay takes effect once even if the relay
    has to send it twice.

    Raises:
        ValueError: its headers are malformed.
    """
    properties = without_effects(Properties.decode(message.properties), user=None)
    if not properties.fields.get("message_id"):
        properties = properties.with_fields({"message_id": replay_id(message)})
    return properties.with_headers({}, without=(*OURS, *BROKERS_OWN))


def replay_id(message: ParkedMessage) -> bytes:
    """The message id that a replay of the message has."""
    own = Properties.decode(message.properties).fields.get("message_id")
    return own or f"parked-{sha256(message.parking.encode()).hexdigest()[:32]}".encode()


def _headers(properties: Properties) -> Mapping[str, Any]:
    try:
        return readable_headers(properties)
    except MalformedProperties:
        return {}


def _death(headers: Mapping[str, Any], queue: str) -> Mapping[str, Any] | None:
    """How the broker dead-lettered the message out of its queue, if it did. Wait queues do that as well."""
    deaths = headers.get("x-death")
    for death in deaths if isinstance(deaths, list) else ():
        if isinstance(death, dict) and death.get("queue") == queue:
            return death
    return None


def _reason(headers: Mapping[str, Any], died: Mapping[str, Any] | None) -> str:
    """Why the message is where it is, in one line for people."""
    error = headers.get(ERROR)
    if died is None and error is None:
        return "no reason was given: was it published to the parking lot by hand?"
    if died is None:
        return one_line(str(error))
    word = str(died.get("reason"))
    reason = _REASONS.get(word, f"dead-lettered by the broker: {word}")
    return one_line(reason if error is None else f"{reason}; the attempt before had failed with: {error}")


def _time(value: object, now: datetime) -> datetime:
    """When it was parked, if what it says of that can be true."""
    try:
        found = datetime.fromisoformat(str(value))
        return found if now - _PLAUSIBLE <= found <= now else now
    except (ValueError, TypeError, OverflowError):
        return now


def _digest(queue: str, delivery: Delivery, *, without: Collection[str]) -> str:
    properties = delivery.properties
    try:
        encoded = properties.with_headers({}, without=without).encode()
    except MalformedProperties:
        encoded = properties.encode()
    digest = sha256()
    for part in (queue.encode(), encoded, delivery.body):
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.hexdigest()
