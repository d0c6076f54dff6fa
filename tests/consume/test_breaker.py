"""The kill switch: its core under a clock that stands still."""

from __future__ import annotations

from typing import Any

import pytest

from roles.consume.breaker import Breaker, Outcome, State, Switch

GOOD, FAILED, REFUSED = Outcome


def switch(**options: Any) -> Switch:
    return Switch(Breaker(**{"window": "30s", "failure_rate": 0.5, "min_messages": 4, "pause": "10s", **options}))


def told(subject: Switch, *outcomes: Outcome, at: float = 0.0) -> State:
    for outcome in outcomes:
        subject.record(outcome, at)
    return subject.state


def test_it_opens_when_the_share_is_reached_and_not_before() -> None:
    subject = switch()

    assert told(subject, GOOD, GOOD, GOOD, FAILED, FAILED) is State.CLOSED
    assert subject.counts(0.0) == (2, 5)
    assert told(subject, FAILED) is State.OPEN


def test_a_few_messages_say_nothing() -> None:
    assert told(switch(), FAILED, FAILED, FAILED) is State.CLOSED
    assert told(switch(), FAILED, FAILED, FAILED, FAILED) is State.OPEN


def test_success_alone_never_opens_it() -> None:
    assert told(switch(failure_rate=0.01), *[GOOD] * 100) is State.CLOSED


def test_what_is_older_than_the_window_is_forgotten() -> None:
    subject = switch()
    told(subject, FAILED, FAILED, FAILED, at=0.0)

    assert told(subject, FAILED, at=31.0) is State.CLOSED
    assert subject.counts(31.0) == (1, 1)
    assert subject.counts(100.0) == (0, 0)


def test_what_is_within_the_window_is_not() -> None:
    subject = switch()
    told(subject, FAILED, FAILED, FAILED, at=3.0)

    assert told(subject, FAILED, at=29.0) is State.OPEN


def test_garbage_among_good_messages_does_not_stop_the_good_ones() -> None:
    assert told(switch(), GOOD, *[REFUSED] * 100) is State.CLOSED
    assert told(switch(), GOOD, *[REFUSED] * 100, FAILED, FAILED) is State.CLOSED
    assert told(switch(), GOOD, *[REFUSED] * 100, FAILED, FAILED, FAILED) is State.OPEN


def test_a_model_that_accepts_nothing_opens_it() -> None:
    assert told(switch(), REFUSED, REFUSED, FAILED) is State.CLOSED
    assert told(switch(), REFUSED, REFUSED, FAILED, REFUSED) is State.OPEN


def test_one_message_is_tried_after_the_pause_and_decides() -> None:
    subject = switch()
    told(subject, *[FAILED] * 4, at=100.0)
    assert (subject.left(100.0), subject.left(104.0), subject.left(110.0)) == (10.0, 6.0, 0.0)

    subject.probe()
    assert subject.left(110.0) == 0.0
    assert subject.record(FAILED, 111.0)
    assert (subject.state, subject.left(111.0)) == (State.OPEN, 10.0)

    subject.probe()
    assert subject.record(GOOD, 121.0)
    assert subject.state is State.CLOSED
    assert subject.counts(121.0) == (0, 0)
    assert told(subject, FAILED, FAILED, FAILED, at=121.0) is State.CLOSED


def test_a_refused_probe_is_a_failure() -> None:
    subject = switch()
    told(subject, *[REFUSED] * 4)
    subject.probe()

    assert told(subject, REFUSED) is State.OPEN


def test_what_was_at_work_when_it_opened_changes_nothing() -> None:
    subject = switch()
    told(subject, *[FAILED] * 4)

    assert not subject.record(GOOD, 5.0)
    assert not subject.record(FAILED, 5.0)
    assert (subject.state, subject.left(5.0)) == (State.OPEN, 5.0)


def test_it_takes_no_more_memory_for_more_messages() -> None:
    subject = switch()
    for number in range(10_000):
        subject.record(GOOD, number / 10)

    assert len(subject._buckets) <= 11
    assert 270 <= subject.counts(999.9)[1] <= 300


@pytest.mark.parametrize(
    ("options", "finding"),
    [
        ({"window": "soon"}, "breaker window 'soon' is not a duration"),
        ({"window": "0s"}, "breaker window '0s' is not longer than zero"),
        ({"pause": "-1s"}, "breaker pause '-1s' is not a duration"),
        ({"pause": "0s"}, "breaker pause '0s' is not longer than zero"),
        ({"failure_rate": 0}, "breaker failure_rate 0 is not a number above 0 and up to 1"),
        ({"failure_rate": 50}, "breaker failure_rate 50 is not a number above 0 and up to 1"),
        ({"failure_rate": "half"}, "breaker failure_rate 'half' is not a number above 0 and up to 1"),
        ({"failure_rate": True}, "breaker failure_rate True is not a number above 0 and up to 1"),
        ({"min_messages": 0}, "breaker min_messages 0 is not a number from 1"),
        ({"min_messages": 1.5}, "breaker min_messages 1.5 is not a number from 1"),
    ],
)
def test_a_bad_declaration_is_named(options: dict[str, Any], finding: str) -> None:
    (found,) = Breaker(**options).findings()

    assert found.startswith(finding)


def test_the_defaults_are_valid() -> None:
    assert list(Breaker().findings()) == []
