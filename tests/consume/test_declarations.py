from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from db.pool import Work
from roles.consume import Breaker, Consumer, Delivery, Ladder, consumer
from roles.consume.handlers import CONSUMERS
from roles.consume.names import parked_queue, wait_queue
from roles.consume.validation import validate
from schema.errors import ConfigurationError
from schema.settings import Settings
from schema.students import NewStudent

if TYPE_CHECKING:
    from decimal import Decimal


class Note(BaseModel):
    text: str


async def handler(message: Note, work: Work) -> None:
    """Does nothing."""


async def _slow_key(message: Note) -> str:
    return message.text


def declared(**options: Any) -> Consumer[Note]:
    return consumer(**{"queue": "q", **options})(handler)


def findings(*consumers: Consumer[Any]) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        validate(consumers, Settings())
    return str(caught.value).splitlines()


def test_the_consumers_that_ship_are_valid() -> None:
    validate(CONSUMERS, Settings())

    create_student = CONSUMERS[0]
    assert create_student.queue == "example.main"
    assert create_student.exchange == "example.exchange"
    assert create_student.model() is NewStudent


@pytest.mark.anyio
async def test_a_declared_handler_can_be_called() -> None:
    seen: list[Note] = []

    @consumer("q")
    async def note(message: Note, work: Work) -> None:
        seen.append(message)

    await note(Note(text="x"), None)  # type: ignore[arg-type]

    assert seen == [Note(text="x")]


def test_defaults() -> None:
    subject = declared()

    assert subject.retry.steps() == (timedelta(seconds=5), timedelta(seconds=30), timedelta(minutes=5))
    assert (subject.concurrency, subject.broker, subject.exchange, subject.binding_key) == (10, "example", None, "q")


@pytest.mark.parametrize(
    ("options", "finding"),
    [
        (
            {"retry": Ladder("5s", "5x")},
            "consumer q: retry delay '5x' is not a duration (try '5s'; the units are ms, s, m, h and d)",
        ),
        ({"retry": Ladder("0s")}, "consumer q: retry delay '0s' is not between 1ms and"),
        ({"retry": Ladder("50d")}, "consumer q: retry delay '50d' is not between 1ms and"),
        (
            {"retry": Ladder("10d", "4d")},
            "consumer q: the delays of its ladder come to 14d, and consume.inbox_retention is 14d: a message could",
        ),
        ({"broker": "exmaple"}, "consumer q: unknown broker 'exmaple': did you mean 'example'?"),
        ({"broker": "other"}, "consumer q: unknown broker 'other': known are example"),
        ({"concurrency": 0}, "consumer q: concurrency 0 is not a number between 1 and 65535"),
        ({"concurrency": "10"}, "consumer q: concurrency '10' is not a number between 1 and 65535"),
        ({"timeout": "soon"}, "consumer q: timeout 'soon' is not a duration"),
        ({"timeout": "30m"}, "consumer q: timeout 30m is not between 0s and 30m"),
        ({"timeout": "0s"}, "consumer q: timeout 0s is not between 0s and 30m"),
        (
            {"timeout": "20m"},
            "consumer q: timeout 20m and consume.give_back_after = 10m together are not shorter than 30m",
        ),
        ({"breaker": Breaker(pause="soon")}, "consumer q: breaker pause 'soon' is not a duration"),
        ({"breaker": Breaker(failure_rate=0)}, "consumer q: breaker failure_rate 0 is not a number above 0"),
        ({"breaker": {"window": "30s"}}, "consumer q: breaker {'window': '30s'} is no Breaker(…), nor None"),
        ({"breaker": False}, "consumer q: breaker False is no Breaker(…), nor None"),
        ({"retry": ["5s"]}, "consumer q: retry ['5s'] is no ladder (try Ladder('5s', '30s'))"),
        ({"key": "text"}, "consumer q: key 'text' is no function of the message"),
        ({"key": _slow_key}, "consumer q: key _slow_key is an async function"),
        ({"exchange_type": "topik"}, "consumer q: unknown exchange type 'topik': did you mean 'topic'?"),
        ({"queue": ""}, "consumer : '' is no name for a queue"),
        ({"queue": "amq.q"}, "consumer amq.q: 'amq.q' is no name for a queue"),
        ({"queue": "q" * 250}, f"consumer {'q' * 250}: queue '{'q' * 40}…' has 260 bytes, and AMQP allows 255"),
        ({"queue": "ü" * 127, "retry": Ladder()}, f"consumer {'ü' * 127}: queue '{'ü' * 40}…' has 261 bytes"),
        ({"exchange": "e" * 256}, f"consumer q: exchange '{'e' * 40}…' has 256 bytes"),
        ({"routing_key": "r" * 256}, f"consumer q: routing key '{'r' * 40}…' has 256 bytes"),
    ],
)
def test_a_bad_declaration_is_named(options: dict[str, Any], finding: str) -> None:
    (found,) = findings(declared(**options))

    assert found.startswith(finding)


def _not_async(message: Note, work: Work) -> None: ...


async def _no_model(message: dict[str, str], work: Work) -> None: ...


async def _no_annotation(message, work: Work) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001


async def _no_work(message: Note) -> None: ...


async def _as_without_a_transaction(message: Note, delivery: Delivery) -> None: ...


async def _as_in_batches(messages: list[Note], work: Work) -> None: ...


async def _unresolvable(message: Decimal, work: Work) -> None: ...


@pytest.mark.parametrize(
    ("bad", "finding"),
    [
        (_not_async, "the handler _not_async is not an async function"),
        (_no_model, "the message is annotated with dict[str, str], which is no pydantic model"),
        (_no_annotation, "the message is annotated with nothing, which is no pydantic model"),
        (_no_work, "the handler takes (message: Note) and not (message: <model>, work: Work)"),
        (
            _as_without_a_transaction,
            "the handler takes (message: Note, delivery: Delivery) and not ",
        ),
        (_unresolvable, "the handler's annotations cannot be resolved: name 'Decimal' is not defined"),
    ],
)
def test_a_bad_handler_is_named(bad: Any, finding: str) -> None:
    (found,) = findings(consumer("q")(bad))

    assert found.startswith(f"consumer q: {finding}")


def test_a_handler_that_goes_with_other_options_is_named() -> None:
    declared: Any = consumer("q", transaction=False)

    (found,) = findings(declared(handler))

    assert found.startswith("consumer q: the handler takes (message: Note, work: Work) and not (message: <model>, ")
    assert found.endswith("delivery: Delivery), as it must with transaction=False")
    validate([declared(_as_without_a_transaction)], Settings())


@pytest.mark.parametrize(
    ("bad", "finding"),
    [
        (handler, "the messages are annotated with Note: a batch is a list[<model>]"),
        (_as_without_a_transaction, "the handler takes (message: Note, delivery: Delivery) and not (messages: list["),
        (_not_async, "the handler _not_async is not an async function"),
    ],
)
def test_a_bad_handler_of_batches_is_named(bad: Any, finding: str) -> None:
    found = findings(consumer("q", batch=10)(bad))

    assert found[0].startswith(f"consumer q: {finding}")


@pytest.mark.parametrize(
    ("options", "finding"),
    [
        ({"batch": 0}, "batch 0 is not a number of messages"),
        ({"batch": "many"}, "batch 'many' is not a number of messages"),
        ({"linger": "soon"}, "linger 'soon' is not a duration"),
        ({"linger": "2m"}, "linger 2m is not between 0s and 1m"),
        (
            {"key": lambda message: message.text},
            "batch and key do not go together: with concurrency=1",
        ),
        ({"concurrency": 999}, "its concurrency needs 100000 messages in hand, and AMQP allows 65535"),
    ],
)
def test_a_bad_declaration_of_batches_is_named(options: dict[str, Any], finding: str) -> None:
    declare: Any = consumer(**{"queue": "q", "batch": 100, **options})
    (found,) = findings(declare(_as_in_batches))

    assert found.startswith(f"consumer q: {finding}")


def test_a_batch_is_a_transaction() -> None:
    declare: Any = consumer("q", batch=100, transaction=False)

    assert "consumer q: batch and transaction=False do not go together: a batch is one transaction" in findings(
        declare(_as_without_a_transaction)
    )


def test_the_broker_leaves_enough_in_hand() -> None:
    in_batches: Any = consumer("q", batch=100, concurrency=2)

    assert declared(concurrency=3).prefetch == 3
    assert declared(concurrency=3, key=lambda message: message.text).prefetch == 30
    assert in_batches(_as_in_batches).prefetch == 300
    validate([in_batches(_as_in_batches)], Settings())
    assert in_batches(_as_in_batches).model() is Note


def test_all_findings_are_told_at_once() -> None:
    found = findings(declared(concurrency=0, timeout="x"), declared(queue="other", retry=Ladder("x")))

    assert len(found) == 3


def test_one_queue_has_one_consumer() -> None:
    assert findings(declared(), declared()) == ["consumer q: declared 2 times; one queue has one consumer"]


def test_a_queue_cannot_be_the_parking_lot_of_another() -> None:
    assert findings(declared(), declared(queue="q.parked")) == [
        "consumer q.parked: the name is one that consumer q has for a queue of its own"
    ]


def test_one_exchange_has_one_type() -> None:
    found = findings(declared(exchange="e"), declared(queue="other", exchange="e", exchange_type="direct"))

    assert found == ["consumer other: exchange 'e' is of type 'direct' here and 'topic' for another consumer"]


def test_names_of_the_other_queues() -> None:
    assert parked_queue("q") == "q.parked"
    assert wait_queue("q", timedelta(seconds=5)) == "q.retry.5s"
    assert wait_queue("q", timedelta(seconds=60)) == "q.retry.1m"
    assert wait_queue("q", timedelta(milliseconds=250)) == "q.retry.250ms"
