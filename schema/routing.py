"""What AMQP and the settings allow of where messages go: consumers and topics are both held to it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from schema.meant import meant

EXCHANGE_TYPES: Final = ("direct", "topic", "fanout", "headers")
MAX_NAME: Final = 255
"""Bytes that the name of a queue or an exchange, and a routing key, may have in AMQP."""


def routing_findings(
    *, broker: str, brokers: Collection[str], exchange_type: str, names: Mapping[str, str]
) -> Iterator[str]:
    """What is wrong, a sentence each.

    Params:
        brokers: the names of those that there are.
        names: by what they are of.
    """
    if broker not in brokers:
        yield f"unknown broker {broker!r}: {meant(broker, brokers)}"
    if exchange_type not in EXCHANGE_TYPES:
        yield f"unknown exchange type {exchange_type!r}: {meant(exchange_type, EXCHANGE_TYPES)}"
    for kind, name in names.items():
        if (size := len(name.encode())) > MAX_NAME:
            yield f"{kind} {name[:40] + '…'!r} has {size} bytes, and AMQP allows {MAX_NAME}"
