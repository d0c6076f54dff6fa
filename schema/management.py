"""What RabbitMQ's management API answers, as far as it matters here."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, RootModel


class QueueListed(BaseModel):
    """A queue."""

    name: str
    durable: bool
    arguments: dict[str, Any]


class ExchangeListed(BaseModel):
    """An exchange; the default one has no name."""

    name: str
    type: str


class BindingListed(BaseModel):
    """A binding; `source` is an exchange."""

    source: str
    destination: str
    destination_type: Literal["queue", "exchange"]
    routing_key: str
    arguments: dict[str, Any]


class Queues(RootModel[list[QueueListed]]):
    """`GET /api/queues/<vhost>`."""


class Exchanges(RootModel[list[ExchangeListed]]):
    """`GET /api/exchanges/<vhost>`."""


class Bindings(RootModel[list[BindingListed]]):
    """`GET /api/bindings/<vhost>`."""
