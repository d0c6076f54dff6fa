"""`Topic`: a kind of message that this service publishes, declared as data beside its model.

```
STUDENT_CREATED = Topic(
    "student.created", StudentCreated, exchange="example.exchange", routing_key="student.created"
)
```
All of them are listed in `schema.topics`, and `work.publish(STUDENT_CREATED, StudentCreated(…))` sends one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel

Message = TypeVar("Message", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Topic(Generic[Message]):
    """What is published, and where.

    Params:
        name: how people and other programs call it; also the `type` of its messages.
        model: what a message of it is; its JSON is the body.
        exchange: a durable exchange, declared when the relay starts. Empty: the broker's default exchange, where
            the routing key is the name of a queue.
        routing_key: what every message of it is published with.
        exchange_type: `direct`, `topic`, `fanout` or `headers`.
        broker: the name of the connection in the settings, `[amqp.<name>]`.
    """

    name: str
    model: type[Message]
    exchange: str
    routing_key: str
    exchange_type: str = "topic"
    broker: str = "example"
