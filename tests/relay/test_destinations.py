"""When a destination that fails is tried again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from roles.relay.destinations import FORGET_AFTER, Destinations

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ONE, OTHER = ("e", "one"), ("e", "other")


def test_pauses_double_up_to_the_ceiling_and_success_ends_them() -> None:
    destinations = Destinations(ceiling=timedelta(seconds=10))
    now, pauses = NOW, []
    for _ in range(30):
        trouble = destinations.failed(ONE, "full", now)
        pauses.append((trouble.until - now).total_seconds())
        assert destinations.trouble(ONE, trouble.until - timedelta(microseconds=1)) == trouble
        now = trouble.until
        assert destinations.trouble(ONE, now) is None
        assert destinations.is_doubtful(ONE), "it is tried with one message first"
    assert pauses[:6] == [1, 2, 4, 8, 10, 10]
    assert pauses[-1] == 10
    assert destinations.worked(ONE)
    assert not destinations.is_doubtful(ONE)
    assert not destinations.worked(ONE)
    assert destinations.failed(ONE, "full", now).failures == 1


def test_one_destination_says_nothing_of_another() -> None:
    destinations = Destinations(ceiling=timedelta(minutes=1))
    destinations.failed(ONE, "full", NOW)
    assert destinations.trouble(OTHER, NOW) is None
    assert not destinations.is_doubtful(OTHER)


def test_what_nobody_tries_any_more_is_forgotten() -> None:
    destinations = Destinations(ceiling=timedelta(minutes=1))
    destinations.failed(ONE, "full", NOW)
    destinations.failed(OTHER, "full", NOW + FORGET_AFTER)
    assert destinations.is_doubtful(ONE)
    destinations.failed(OTHER, "full", NOW + FORGET_AFTER + timedelta(seconds=2))
    assert not destinations.is_doubtful(ONE)
    assert destinations.is_doubtful(OTHER)
