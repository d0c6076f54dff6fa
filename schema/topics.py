"""The topics of this service. A new one is declared beside its model, and is a line in `TOPICS`."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from schema.errors import ConfigurationError
from schema.meant import meant
from schema.routing import routing_findings
from schema.settings import Settings
from schema.students import STUDENT_CREATED
from schema.topic import Topic

TOPICS: tuple[Topic[Any], ...] = (STUDENT_CREATED,)


def find(name: str, topics: Sequence[Topic[Any]] = TOPICS) -> Topic[Any]:
    """The topic of this name.

    Raises:
        ConfigurationError: there is none; it says which name comes nearest.
    """
    for topic in topics:
        if topic.name == name:
            return topic
    raise ConfigurationError(f"there is no topic {name!r}: {meant(name, [topic.name for topic in topics])}")


def validate(topics: Sequence[Topic[Any]], settings: Settings) -> None:
    """Checks all declarations. A process without any broker may still publish: others relay its messages.

    Raises:
        ConfigurationError: one line per finding, with the topic and the offending value.
    """
    findings = [f"topic {each.name}: {finding}" for each in topics for finding in _findings(each, settings)]
    findings += _conflicts(topics)
    if findings:
        raise ConfigurationError("\n".join(findings))


def _findings(topic: Topic[Any], settings: Settings) -> Iterator[str]:
    if not topic.name:
        yield "it has no name"
    if not (inspect.isclass(topic.model) and issubclass(topic.model, BaseModel)):
        yield f"its model {topic.model!r} is no pydantic model"
    yield from routing_findings(
        broker=topic.broker,
        brokers=settings.amqp or (topic.broker,),
        exchange_type=topic.exchange_type,
        names={"name": topic.name, "exchange": topic.exchange, "routing key": topic.routing_key},
    )


def _conflicts(topics: Sequence[Topic[Any]]) -> Iterator[str]:
    for name, count in Counter(each.name for each in topics).items():
        if count > 1:
            yield f"topic {name}: declared {count} times"
    types: dict[tuple[str, str], Topic[Any]] = {}
    for each in topics:
        other = types.setdefault((each.broker, each.exchange), each)
        if each.exchange and other.exchange_type != each.exchange_type:
            yield (
                f"topic {each.name}: exchange {each.exchange!r} is of type {each.exchange_type!r} here and "
                f"{other.exchange_type!r} for topic {other.name}"
            )
