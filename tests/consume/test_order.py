"""In which order messages are handled, and what that takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from db.pool import Work
from roles.consume import Consumer, Ladder, consumer
from schema.errors import ConfigurationError
from tests.amqp.support import eventually, proxied
from tests.consume.support import Calls, Note, Producer, consuming, milliseconds

pytestmark = pytest.mark.anyio

PATIENCE = 120


async def test_one_at_a_time_is_in_the_order_of_the_queue_even_if_the_connection_is_lost(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    all_sent = anyio.Event()

    async def wait(message: Note, work: Work) -> None:
        await all_sent.wait()

    calls = Calls(wait)
    async with (
        proxied(amqp_url) as proxy,
        consuming(calls.declared(concurrency=1), amqp_url=proxy.url, database_url=database_url) as running,
    ):
        for number in range(200):
            await producer.send(f"{number:03}")
        all_sent.set()
        for cut in (50, 100):
            await eventually(lambda cut=cut: len(calls.texts) > cut, within=PATIENCE)  # type: ignore[misc]
            await proxy.sever()
        await eventually(lambda: len(set(calls.texts)) == 200, within=PATIENCE)
        await eventually(lambda: running.tally().in_flight == 0, within=PATIENCE)

    assert calls.texts == sorted(calls.texts)


async def test_of_two_processes_the_broker_feeds_one_until_it_is_gone(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    first, second = Calls(), Calls()
    options: dict[str, Any] = {"concurrency": 1, "single_active": True}
    where = {"amqp_url": amqp_url, "database_url": database_url}
    async with (
        consuming(first.declared(**options), **where) as one,
        consuming(second.declared(**options), **where) as other,
    ):
        assert other.status().subscribed
        for number in range(20):
            await producer.send(f"{number:03}")
        await eventually(lambda: one.tally().finished == 20, within=PATIENCE)
        await one.drain(within=PATIENCE)
        for number in range(20, 40):
            await producer.send(f"{number:03}")
        await eventually(lambda: other.tally().finished == 20, within=PATIENCE)

    handled = first.texts + second.texts
    assert handled == [f"{number:03}" for number in range(40)]


async def test_a_queue_that_was_declared_for_all_cannot_become_single_active(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    async with consuming(Calls().declared(), amqp_url=amqp_url, database_url=database_url):
        pass

    with pytest.raises(ExceptionGroup) as caught:
        async with consuming(Calls().declared(single_active=True), amqp_url=amqp_url, database_url=database_url):
            pass

    (error,) = caught.value.exceptions
    assert isinstance(error, ConfigurationError)
    assert "'q'" in str(error)
    assert "x-single-active-consumer" in str(error)


class Student(BaseModel):
    student: str
    number: int


class Lanes:
    """Notes what it handles, in which order, and whether two of one student were at work at a time."""

    def __init__(self, then: Callable[[Student], Awaitable[None]] | None = None) -> None:
        self.done: dict[str, list[int]] = {}
        self.at_work: list[str] = []
        self.overlaps = 0
        self._then = then

    async def handle(self, message: Student, work: Work) -> None:
        self.overlaps += message.student in self.at_work
        self.at_work.append(message.student)
        try:
            await (self._then(message) if self._then else anyio.sleep(0.002))
        finally:
            self.at_work.remove(message.student)
        self.done.setdefault(message.student, []).append(message.number)

    def declared(self, **options: Any) -> Consumer[Student]:
        defaults = {"retry": Ladder(), "concurrency": 4, "key": lambda message: message.student}
        return consumer("q", **{**defaults, **options})(self.handle)


async def send(producer: Producer, student: str, number: int) -> None:
    body = Student(student=student, number=number).model_dump_json()
    await producer.raw(body.encode(), message_id=f"{student}-{number}")


async def test_messages_with_one_key_are_handled_one_after_the_other_and_others_beside_them(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    all_three = anyio.Event()

    async def meet(message: Student) -> None:
        if message.number == 0:
            if len(lanes.at_work) == 3:
                all_three.set()
            await all_three.wait()

    lanes = Lanes(meet)
    async with consuming(lanes.declared(), amqp_url=amqp_url, database_url=database_url) as running:
        for number in range(60):
            for student in "abc":
                await send(producer, student, number)
        await eventually(lambda: running.tally().finished == 180, within=PATIENCE)

    assert lanes.done == {student: list(range(60)) for student in "abc"}
    assert lanes.overlaps == 0


async def test_a_key_whose_handler_hangs_does_not_hold_up_the_others(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    go_on = anyio.Event()

    async def hang(message: Student) -> None:
        if message.student == "slow":
            await go_on.wait()

    lanes = Lanes(hang)
    subject = lanes.declared(concurrency=2)
    async with consuming(subject, amqp_url=amqp_url, database_url=database_url) as running:
        for number in range(10):
            await send(producer, "slow", number)
        for number in range(30):
            await send(producer, "quick", number)
        await eventually(lambda: len(lanes.done.get("quick", [])) == 30, within=PATIENCE)
        assert "slow" not in lanes.done
        go_on.set()
        await eventually(lambda: running.tally().finished == 40, within=PATIENCE)

    assert lanes.done == {"slow": list(range(10)), "quick": list(range(30))}


async def test_a_retry_leaves_its_lane_and_those_behind_it_go_on(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    failed: list[int] = []

    async def fail_once(message: Student) -> None:
        if message.number == 1 and not failed:
            failed.append(message.number)
            raise ValueError("not yet")

    lanes = Lanes(fail_once)
    subject = lanes.declared(retry=milliseconds(300))
    async with consuming(subject, amqp_url=amqp_url, database_url=database_url) as running:
        for number in range(4):
            await send(producer, "a", number)
        await eventually(lambda: running.tally().finished == 4, within=PATIENCE)

    assert lanes.done == {"a": [0, 2, 3, 1]}


async def test_the_order_of_a_key_outlasts_the_connection(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    lanes = Lanes()
    async with (
        proxied(amqp_url) as proxy,
        consuming(lanes.declared(), amqp_url=proxy.url, database_url=database_url) as running,
    ):
        for number in range(100):
            for student in "abc":
                await send(producer, student, number)
            if number in (40, 70):
                await proxy.sever()
        await eventually(lambda: sum(map(len, lanes.done.values())) >= 300, within=PATIENCE)
        await eventually(lambda: running.tally().in_flight == 0, within=PATIENCE)

    assert lanes.done == {student: list(range(100)) for student in "abc"}
    assert lanes.overlaps == 0


class Incomparable:
    """A key whose comparison raises, as that of an array does."""

    def __init__(self, message: Student) -> None:
        self.student = message.student

    def __hash__(self) -> int:
        return hash(self.student)

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("incomparable")


@pytest.mark.parametrize(
    ("key", "error"),
    [
        (lambda message: message.nothing, "AttributeError: 'Student' object has no attribute 'nothing'"),
        (lambda message: [message.student], "TypeError: "),
        (Incomparable, "RuntimeError: incomparable"),
    ],
)
async def test_a_message_without_a_usable_key_has_failed(
    producer: Producer, amqp_url: str, database_url: str, key: Callable[[Student], Any], error: str
) -> None:
    lanes = Lanes()
    async with consuming(lanes.declared(key=key), amqp_url=amqp_url, database_url=database_url):
        for number in range(3):
            await send(producer, "a", number)
        parked = [await producer.take("q.parked", within=PATIENCE) for _ in range(3)]

    assert all(str(each.headers["x-error"]).startswith(error) for each in parked)
    assert lanes.done == {}


async def test_bodies_that_do_not_decode_have_no_lane_and_no_key_means_no_order(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    lanes = Lanes()
    subject = lanes.declared(key=lambda message: None if message.student == "free" else message.student)
    async with consuming(subject, amqp_url=amqp_url, database_url=database_url) as running:
        await producer.raw(b"{")
        await send(producer, "a", 1)
        await send(producer, "free", 1)
        await eventually(lambda: running.tally().finished == 2, within=PATIENCE)
        await eventually(lambda: running.status().parked == 1, within=PATIENCE)

    assert lanes.done == {"a": [1], "free": [1]}


async def test_what_waits_in_a_lane_goes_back_when_we_are_to_stop(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    go_on = anyio.Event()

    async def wait(message: Student) -> None:
        await go_on.wait()

    lanes = Lanes(wait)
    async with consuming(lanes.declared(), amqp_url=amqp_url, database_url=database_url) as running:
        for number in range(5):
            await send(producer, "a", number)
        await eventually(lambda: running.tally().in_flight == 5, within=PATIENCE)
        running.stop.set()
        await eventually(lambda: running.tally().given_back == 4, within=PATIENCE)
        go_on.set()
        await running.drain(within=PATIENCE)

    assert (running.tally().finished, running.tally().in_flight) == (1, 0)
    assert lanes.done == {"a": [0]}
    await producer.holds("q", 4)
