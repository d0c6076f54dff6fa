"""Topics are checked at boot, and findings say which topic and which value."""

from __future__ import annotations

import pytest

from schema.errors import ConfigurationError
from schema.settings import Settings
from schema.students import STUDENT_CREATED, StudentCreated
from schema.topic import Topic
from schema.topics import TOPICS, find, validate


def topic(name: str = "a", **values: str) -> Topic[StudentCreated]:
    return Topic(**{"name": name, "model": StudentCreated, "exchange": "e", "routing_key": "k", **values})  # type: ignore[arg-type]


def test_the_topics_that_ship_are_valid() -> None:
    validate(TOPICS, Settings())


def test_the_default_exchange_belongs_to_everybody() -> None:
    validate([topic("a", exchange="", exchange_type="direct"), topic("b", exchange="")], Settings())


@pytest.mark.parametrize(
    ("topics", "finding"),
    [
        ([topic("")], "topic : it has no name"),
        ([topic(model=dict)], "topic a: its model <class 'dict'> is no pydantic model"),  # type: ignore[arg-type]
        ([topic(broker="exmaple")], "topic a: unknown broker 'exmaple': did you mean 'example'?"),
        ([topic(broker="zzz")], "topic a: unknown broker 'zzz': known are example"),
        ([topic(exchange_type="topik")], "topic a: unknown exchange type 'topik': did you mean 'topic'?"),
        (
            [topic(routing_key="é" * 128)],
            f"topic a: routing key {'é' * 40 + '…'!r} has 256 bytes, and AMQP allows 255",
        ),
        ([topic(), topic()], "topic a: declared 2 times"),
        (
            [topic("a"), topic("b", exchange_type="fanout")],
            "topic b: exchange 'e' is of type 'fanout' here and 'topic' for topic a",
        ),
    ],
)
def test_what_can_never_work_is_refused(topics: list[Topic[StudentCreated]], finding: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        validate(topics, Settings())
    assert str(caught.value) == finding


def test_a_topic_is_found_by_its_name_and_a_mistyped_one_gets_a_hint() -> None:
    assert find("student.created") is STUDENT_CREATED
    with pytest.raises(ConfigurationError, match=r"no topic 'students\.created': did you mean 'student\.created'\?"):
        find("students.created")
