"""What becomes of a message whose handler failed: another attempt after a delay, or the parking lot.

The attempt is counted in a header of ours, because brokers differ in what they count (RabbitMQ 4 forgets
`x-death` when a message is published again, 3.10 does not).

| header | on a message that failed |
|---|---|
| `x-attempt` | the number of the attempt that comes next, or in the parking lot the one that was the last |
| `x-error` | what the last attempt failed with |
| `x-failed-at` | when, ISO 8601 in UTC |
| `x-failure-id` | another one for each failure: by it the archiver knows a message that it gets once more |
| `x-expiration`, `x-user-id` | the properties of these names, which the broker would act on |
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import uuid4

from pydantic import ValidationError

from roles.amqp import Properties
from schema.duration import parse_duration
from schema.errors import text_of

ATTEMPT = "x-attempt"
ERROR = "x-error"
FAILED_AT = "x-failed-at"
FAILURE_ID = "x-failure-id"
OURS = (ATTEMPT, ERROR, FAILED_AT, FAILURE_ID)

MAX_ERROR_LENGTH = 1000
"""Characters. All properties together must fit in one frame, and people read this in a list."""

LAST_ATTEMPT = 2**31 - 1
BROKERS_OWN = (
    *("x-death", "x-delivery-count", "x-acquired-count", "CC", "BCC"),
    *(f"x-{which}-death-{what}" for which in ("first", "last") for what in ("exchange", "queue", "reason")),
)
"""Headers that do not go on: what brokers wrote down, and carbon copies, which would be sent once more."""


class Reject(Exception):
    """Raised by a handler: no further attempt can succeed. The message is parked at once, with this text."""


class Ladder:
    """The delays between the attempts: `Ladder("5s", "30s", "5m")` is four attempts, `Ladder()` one."""

    __slots__ = ("delays",)

    def __init__(self, *delays: str | timedelta) -> None:
        self.delays = delays

    def __repr__(self) -> str:
        return f"Ladder({', '.join(map(repr, self.delays))})"

    def steps(self) -> tuple[timedelta, ...]:
        """The delays. Raises ValueError if one is no duration."""
        return tuple(map(parse_duration, self.delays))


def attempt_of(properties: Properties) -> int:
    """Which attempt this delivery is, from 1. Whatever strangers put into the header counts as the first."""
    try:
        attempt = properties.integer_header(ATTEMPT)
    except ValueError:
        return 1
    return attempt if attempt is not None and attempt > 0 else 1


def next_delay(steps: Sequence[timedelta], attempt: int) -> timedelta | None:
    """The delay after a failed attempt, or None if it was the last one."""
    return steps[attempt - 1] if attempt <= len(steps) else None


def stamped(properties: Properties, *, attempt: int, error: Exception, now: datetime, user: str) -> Properties:
    """The properties to publish a failed message with: all that it came with, and why it is where it is.

    Params:
        user: our own login. The broker refuses a message that says it comes from somebody else.

    Raises:
        ValueError: the headers are malformed.
    """
    headers: dict[str, str | int] = {
        ATTEMPT: min(attempt, LAST_ATTEMPT),
        ERROR: describe(error),
        FAILED_AT: now.isoformat(timespec="milliseconds"),
        FAILURE_ID: uuid4().hex,
    }
    return without_effects(properties, user=user).with_headers(headers, without=BROKERS_OWN)


def without_effects(properties: Properties, *, user: str | None) -> Properties:
    """With what a broker would act on moved to headers: an expiration, and a user id that is not `user`.

    Raises:
        ValueError: the headers are malformed.
    """
    headers: dict[str, str | int] = {}
    fields: dict[str, bytes | None] = {}
    if (expiration := properties.text("expiration")) is not None:  # it would cut the delay short, or empty the lot
        headers["x-expiration"] = expiration
        fields["expiration"] = None
    if (user_id := properties.text("user_id")) is not None and user_id != user:
        headers["x-user-id"] = user_id
        fields["user_id"] = None
    return properties.with_fields(fields).with_headers(headers) if headers else properties


def describe(error: Exception) -> str:
    """The error in one line of bounded length, without the message's own values where they can be left out."""
    if isinstance(error, Reject):
        text = text_of(error)
    elif isinstance(error, ValidationError):
        found = error.errors(include_url=False, include_context=False, include_input=False)
        text = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'body'}: {each['msg']}" for each in found)
    else:
        text = f"{type(error).__name__}: {text_of(error)}".removesuffix(": ")
    return one_line(text)


def one_line(text: str) -> str:
    """The text in one line of at most `MAX_ERROR_LENGTH` characters, none of which is NUL."""
    text = " ".join(text.replace("\x00", r"\x00").split())
    return text if len(text) <= MAX_ERROR_LENGTH else text[: MAX_ERROR_LENGTH - 1] + "…"
