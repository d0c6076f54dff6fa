"""What makes a parked message itself, and what it says about why it is there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from aiormq import spec

from db.parked_messages import NewParkedMessage
from roles.amqp import Channel, Delivery, Properties
from roles.consume.parking import as_another, to_be_archived
from roles.consume.retry import stamped

NOW = datetime(2026, 2, 1, tzinfo=UTC)
DEATH = {"queue": "q", "reason": "delivery_limit", "count": 1, "time": NOW - timedelta(minutes=1)}


def delivery(body: bytes = b"x", *, redelivered: bool = False, **fields: Any) -> Delivery:
    properties = Properties.decode(spec.Basic.Properties(**fields).marshal())
    if "message_id" not in fields:
        properties = properties.with_fields({"message_id": None})
    return delivered(properties, body, redelivered=redelivered)


def delivered(properties: Properties, body: bytes = b"x", *, redelivered: bool = False) -> Delivery:
    return Delivery(body, properties, "", "q.parked", redelivered, 1, cast("Channel", None))


def archived(delivery: Delivery) -> NewParkedMessage:
    return to_be_archived(delivery, broker="b", queue="q", now=NOW)


def failed(properties: Properties) -> Properties:
    return stamped(properties, attempt=4, error=ValueError("no"), now=NOW, user="us")


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({}, "no reason was given: was it published to the parking lot by hand?"),
        ({"x-error": "ValueError:\n no\x00"}, r"ValueError: no\x00"),
        ({"x-error": 7}, "7"),
        ({"x-death": [DEATH]}, "delivered more often than consume.delivery_limit: "),
        (
            {"x-death": [DEATH], "x-error": "ValueError: no"},
            "it had the message in hand; the attempt before had failed with: ValueError: no",
        ),
        ({"x-death": [{**DEATH, "queue": "q.retry.5s", "reason": "expired"}], "x-error": "E: no"}, "E: no"),
        ({"x-death": [{**DEATH, "reason": "rejected"}]}, "parked by the broker itself"),
        ({"x-death": [{**DEATH, "reason": "new"}]}, "dead-lettered by the broker: new"),
        ({"x-death": [{"queue": "q"}]}, "dead-lettered by the broker: None"),
        ({"x-death": "garbage"}, "no reason was given"),
        ({"x-death": [7]}, "no reason was given"),
    ],
)
def test_the_reason_is_one_that_a_person_understands(headers: dict[str, Any], error: str) -> None:
    assert error in archived(delivery(headers=headers)).error


def test_a_reason_has_an_end() -> None:
    assert len(archived(delivery(headers={"x-error": "x" * 50_000})).error) == 1000


@pytest.mark.parametrize(
    ("failed_at", "parked_at"),
    [
        ("2026-01-31T12:00:00.000+00:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-02-02T00:00:00.000+00:00", NOW),
        ("1970-01-01T00:00:00.000+00:00", NOW),
        ("0001-01-01T00:00:00.000+14:00", NOW),
        ("2026-01-31T12:00:00", NOW),
        ("yesterday", NOW),
        (7, NOW),
        (None, NOW),
    ],
)
def test_when_it_was_parked_is_believed_if_it_can_be_true(failed_at: object, parked_at: datetime) -> None:
    assert archived(delivery(headers={"x-failed-at": failed_at})).parked_at == parked_at


def test_when_the_broker_parked_it() -> None:
    assert archived(delivery(headers={"x-death": [DEATH]})).parked_at == DEATH["time"]


def test_an_absurd_attempt_fits_into_its_column() -> None:
    assert archived(delivery(headers={"x-attempt": 2**62})).attempts == 2**31 - 1


def test_malformed_headers_are_stored_as_they_are() -> None:
    properties = Properties.decode(b"\x20\x00\x00\x00\x00\x02\x05x")
    assert archived(delivered(properties)).properties == properties.encode()


def test_each_failure_is_a_parking_of_its_own_and_a_second_delivery_is_not() -> None:
    properties = Properties({})
    one, other = failed(properties), failed(properties)
    assert archived(delivered(one)).parking != archived(delivered(other)).parking
    counted = one.with_headers({"x-delivery-count": 3})
    assert archived(delivered(counted, redelivered=True)).parking == archived(delivered(one)).parking


def test_the_fingerprint_is_that_of_what_the_producer_sent() -> None:
    properties = Properties({"message_id": b"m"}).with_headers({"tenant": 7})
    first = archived(delivered(failed(properties)))
    again = archived(delivered(failed(failed(properties)).with_headers({"x-death": "once"})))
    assert first.fingerprint == again.fingerprint is not None
    assert archived(delivered(failed(properties), b"y")).fingerprint != first.fingerprint
    assert archived(delivered(failed(Properties({})))).fingerprint is None


@pytest.mark.parametrize("redelivered", [True, False])
@pytest.mark.parametrize(
    ("properties", "is_another"),
    [
        (failed(Properties({})), "never"),
        (failed(Properties({"message_id": b"m"})), "never"),
        (Properties({"message_id": b"m"}), "first"),
        (Properties({}), "always"),
    ],
)
def test_what_looks_like_a_stored_message_is_another_one_if_it_could_be(
    properties: Properties, is_another: str, *, redelivered: bool
) -> None:
    found = delivered(properties, redelivered=redelivered)
    another = as_another(found, archived(found))
    assert (another is not None) is (is_another == "always" or (is_another == "first" and not redelivered))
    if another is not None:
        assert another.parking != archived(found).parking
        assert (another.note is not None) is redelivered
