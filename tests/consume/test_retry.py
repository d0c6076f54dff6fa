from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiormq import spec
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from roles.amqp import Properties
from roles.consume.retry import MAX_ERROR_LENGTH, Ladder, Reject, attempt_of, describe, next_delay, stamped

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def properties(**fields: Any) -> Properties:
    return Properties.decode(spec.Basic.Properties(**fields).marshal())


def failed(subject: Properties, *, attempt: int = 2, error: Exception | None = None, user: str = "me") -> Properties:
    return stamped(subject, attempt=attempt, error=error or ValueError("no"), now=NOW, user=user)


def test_three_delays_are_four_attempts() -> None:
    steps = Ladder("5s", "30s", "5m").steps()

    assert [next_delay(steps, attempt) for attempt in (1, 2, 3, 4, 5)] == [
        timedelta(seconds=5),
        timedelta(seconds=30),
        timedelta(minutes=5),
        None,
        None,
    ]


def test_no_delays_are_one_attempt() -> None:
    assert next_delay(Ladder().steps(), 1) is None


def test_the_attempt_is_counted_in_a_header() -> None:
    assert attempt_of(properties()) == 1
    assert attempt_of(properties(headers={"other": 9})) == 1
    assert attempt_of(failed(properties(), attempt=3)) == 3


@pytest.mark.parametrize("garbage", ["2", 0, -1, -(2**63), True, None, 2.0, [2], {"a": 2}, bytearray(b"\xff")])
def test_garbage_in_the_header_is_the_first_attempt(garbage: Any) -> None:
    assert attempt_of(properties(headers={"x-attempt": garbage})) == 1


def test_a_number_beyond_the_ladder_is_the_last_attempt() -> None:
    attempt = attempt_of(properties(headers={"x-attempt": 2**62}))

    assert next_delay(Ladder("5s").steps(), attempt) is None
    assert failed(properties(), attempt=attempt).integer_header("x-attempt") == 2**31 - 1


def test_malformed_headers_are_the_first_attempt() -> None:
    assert attempt_of(Properties.decode(b"\x20\x00\x00\x00\x00\x02\x05x")) == 1


def test_a_failed_message_says_why_and_keeps_the_rest() -> None:
    stamp = failed(properties(message_id="m", headers={"mine": 1, "x-death": [{"count": 1}], "x-delivery-count": 3}))

    assert stamp.text("message_id") == "m"
    headers = dict(stamp.headers)
    assert len(headers.pop(b"x-failure-id")) == 5 + 32
    assert headers == {
        b"mine": b"b\x01",
        b"x-attempt": b"I\x00\x00\x00\x02",
        b"x-error": b"S\x00\x00\x00\x0eValueError: no",
        b"x-failed-at": b"S\x00\x00\x00\x1d2026-01-31T12:00:00.000+00:00",
    }


def test_an_expiration_would_cut_the_delay_short() -> None:
    stamp = failed(properties(expiration="1000"))

    assert stamp.text("expiration") is None
    assert stamp.headers[b"x-expiration"] == b"S\x00\x00\x00\x041000"


def test_carbon_copies_are_not_sent_again() -> None:
    assert b"CC" not in failed(properties(headers={"CC": ["elsewhere"]})).headers


def test_the_broker_would_refuse_somebody_elses_user_id() -> None:
    assert failed(properties(user_id="me"), user="me").text("user_id") == "me"

    foreign = failed(properties(user_id="you"), user="me")
    assert foreign.text("user_id") is None
    assert foreign.headers[b"x-user-id"] == b"S\x00\x00\x00\x03you"


class Model(BaseModel):
    name: str
    age: int


def test_a_validation_error_is_told_without_the_values() -> None:
    with pytest.raises(ValidationError) as caught:
        Model.model_validate_json(b'{"age": "secret"}')

    text = describe(caught.value)

    assert text.startswith("name: Field required; age: Input should be a valid integer")
    assert "secret" not in text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Reject("no such course"), "no such course"),
        (ValueError("line one\nline\ttwo"), "ValueError: line one line two"),
        (RuntimeError(), "RuntimeError"),
        (ValueError("a\x00b"), r"ValueError: a\x00b"),
        (ValueError("\ud800"), "ValueError: \ud800"),
    ],
)
def test_errors_are_told_in_one_line(error: Exception, text: str) -> None:
    assert describe(error) == text
    assert failed(properties(), error=error).headers[b"x-error"].startswith(b"S")


@given(st.text())
def test_errors_are_bounded(text: str) -> None:
    assert len(describe(ValueError(text * 100))) <= MAX_ERROR_LENGTH
